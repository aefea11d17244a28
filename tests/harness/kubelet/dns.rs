//! The cluster's DNS: Services by their whole names, as pods' `resolv.conf` leads there. It knows nothing else.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use tokio::net::UdpSocket;

/// Where clusters keep their names.
pub(super) const DOMAIN: &str = "cluster.local";
/// Seconds that an answer may be kept.
const TTL: u32 = 5;

/// `name.namespace.svc` and its address.
pub(super) type Names = Arc<Mutex<BTreeMap<String, IpAddr>>>;

/// A pod's `resolv.conf`, as kubelets write it.
pub(super) fn resolv_conf(server: IpAddr, namespace: &str) -> String {
    format!("search {namespace}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\nnameserver {server}\noptions ndots:5\n")
}

/// Answers whoever asks.
pub(super) async fn serve(socket: UdpSocket, names: Names) {
    let mut query = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut query).await {
        let answer = answer(&query[..length], &names.lock().unwrap());
        if let Some(answer) = answer {
            // Who does not hear it asks again.
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

/// RFC 1035, section 4: one question, at most one answer.
fn answer(query: &[u8], names: &BTreeMap<String, IpAddr>) -> Option<Vec<u8>> {
    let (header, mut rest) = query.split_at_checked(12)?;
    let mut labels = Vec::new();
    while let [length @ 1..64, after @ ..] = rest {
        let (label, after) = after.split_at_checked(usize::from(*length))?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        rest = after;
    }
    let &[0, kind_high, kind_low, _, _, ..] = rest else {
        return None;
    };
    let question = &query[12..query.len() - rest.len() + 5];
    let name = labels.join(".");
    let known = name
        .strip_suffix(&format!(".{DOMAIN}"))
        .and_then(|name| names.get(name));
    let record = match (known, u16::from_be_bytes([kind_high, kind_low])) {
        (Some(IpAddr::V4(address)), 1) => Some((1_u16, address.octets().to_vec())),
        (Some(IpAddr::V6(address)), 28) => Some((28, address.octets().to_vec())),
        _ => None,
    };
    // A response, recursion asked for and available; NXDOMAIN for a name that nobody has.
    let flags: u16 = if known.is_some() { 0x8180 } else { 0x8183 };
    let mut message = header[..2].to_vec();
    for word in [flags, 1, u16::from(record.is_some()), 0, 0] {
        message.extend(word.to_be_bytes());
    }
    message.extend(question);
    if let Some((kind, data)) = record {
        // The name of the question, in the Internet's class.
        message.extend([0xc0, 12]);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message.extend(TTL.to_be_bytes());
        message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        message.extend(data);
    }
    Some(message)
}
