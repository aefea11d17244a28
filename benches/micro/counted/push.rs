//! What a control plane pushes, and the sidecar's store that takes it.

use prost::Message as _;
use squire_mesh::{bundle::TrustBundles, wire::squire as wire, workload::WorkloadUid};
use squire_proxy::state::{Change, Kind, State, Store, Update};

/// A store that was told of workloads.
pub(crate) struct Pushed {
    store: Store,
    state: State,
    turn: u32,
}

impl Pushed {
    /// Of so many, in one update.
    pub(crate) fn of(workloads: u16) -> Self {
        let domain = "cluster.local".parse().expect("a trust domain");
        let (store, state) = Store::new(WorkloadUid::pod("shop", "web-0"), domain, TrustBundles::new([]).into());
        let mut pushed = Self { store, state, turn: 0 };
        pushed.apply((0..workloads).map(|number| workload(number, 0)).collect());
        assert_eq!(pushed.state.borrow().counts().0, usize::from(workloads));
        pushed
    }

    /// One of them is replaced.
    pub(crate) fn change_one(&mut self) {
        self.turn += 1;
        self.apply(vec![workload(7, self.turn)]);
    }

    fn apply(&mut self, changed: Vec<Change>) {
        let update = Update {
            kind: Kind::Workload,
            version: "1".to_owned(),
            changed,
            removed: Vec::new(),
        };
        self.store.apply(update).expect("a good update");
    }
}

fn workload(number: u16, turn: u32) -> Change {
    let [high, low] = number.to_be_bytes();
    let uid = format!("shop/web-{number}");
    let message = wire::Workload {
        uid: uid.clone(),
        namespace: "shop".to_owned(),
        name: format!("web-{number}"),
        service_account: "web".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        addresses: vec![vec![10, 0, high, low].into()],
        transport: wire::Transport::Squire.into(),
        labels: [
            ("app".to_owned(), "web".to_owned()),
            ("turn".to_owned(), (turn % 2).to_string()),
        ]
        .into(),
        ..wire::Workload::default()
    };
    Change {
        name: uid,
        version: turn.to_string(),
        resource: Some(prost_types::Any {
            type_url: Kind::Workload.type_url().to_owned(),
            value: message.encode_to_vec(),
        }),
    }
}
