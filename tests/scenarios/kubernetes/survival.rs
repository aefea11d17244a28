//! What a control plane lives through: an API server that restarts, rights that are withdrawn, a namespace that gets other
//! labels, a service account that is deleted.

use squire_tests::{apps, eventually, in_time};
use tokio::io::AsyncReadExt as _;

use super::world::{SYSTEM, World, gets_through, is_kept_out};

/// What the control plane of these tests may do; as much as it needs.
const RIGHTS: &str = "
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: squire-control, namespace: squire-system}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: squire-control}
rules:
- {apiGroups: [''], resources: [namespaces, nodes, pods, services, serviceaccounts], verbs: [get, list, watch]}
- {apiGroups: [''], resources: [configmaps], resourceNames: [istio], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [get, list, watch]}
- {apiGroups: [security.istio.io], resources: ['*'], verbs: [get, list, watch, patch]}
- {apiGroups: [networking.istio.io], resources: [workloadentries], verbs: [get, list, watch]}
- {apiGroups: [gateway.networking.k8s.io], resources: [httproutes, grpcroutes, referencegrants], verbs: [get, list, watch]}
- {apiGroups: [squire.mesh], resources: ['*'], verbs: [get, list, watch, patch]}
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], verbs: [list, watch]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
- {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: squire-control, namespace: squire-system}
rules:
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}
- {apiGroups: [''], resources: [secrets], verbs: [get, list, watch, create, update, delete]}
- {apiGroups: [''], resources: [configmaps], verbs: [get, list, create, update, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: squire-control, namespace: squire-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: squire-control}
subjects: [{kind: ServiceAccount, name: squire-control, namespace: squire-system}]
---
";

const BINDING: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: squire-control}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: squire-control}
subjects: [{kind: ServiceAccount, name: squire-control, namespace: squire-system}]
";

const ONLY_TEAM_A: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: team-a, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {team: a}}}]}]
";

#[tokio::test(flavor = "multi_thread")]
async fn restarts_of_the_api_server_and_withdrawn_rights_take_nothing_away_and_what_changed_meanwhile_is_caught_up_with()
 {
    let crds = squire_tests::kubernetes::crds();
    let Some(world) = World::with(&format!("{crds}{RIGHTS}{BINDING}")).await else {
        return;
    };
    world.pod("db", "db", "").await;
    world.pod("web", "web", "").await;
    let kubeconfig = world.api.kubeconfig_of(SYSTEM, "squire-control").await;
    let control = world.replica("control-0", world.mesh.grpc(), world.mesh.admin(), &kubeconfig);
    control.ready().await;
    let echo = apps::echo().await;
    let _db = world.sidecar("db", "db", Some(&echo), &[]).await;
    let web = world.sidecar("web", "web", None, &["db:5432"]).await;
    world.api.apply(ONLY_TEAM_A).await;
    gets_through(&web, "db:5432").await;

    // The namespace gets another label: policies see it at once.
    world
        .kubectl(&["label", "namespace", "shop", "team=b", "--overwrite"])
        .await;
    is_kept_out(&web, "db:5432").await;
    world
        .kubectl(&["label", "namespace", "shop", "team=a", "--overwrite"])
        .await;
    let mut open = gets_through(&web, "db:5432").await;

    // The API server is killed: what is known stays, and is not said to be fresh.
    let removed = [("kind", "workload"), ("change", "removed")];
    world.api.kill().await;
    control.problems(&["cannot be watched", "stays in force"]).await;
    gets_through(&web, "db:5432").await;
    apps::round_trip(&mut open, b"undisturbed").await.unwrap();
    world.api.serve().await;
    control.problems(&[]).await;
    world
        .kubectl(&["label", "namespace", "shop", "team=b", "--overwrite"])
        .await;
    is_kept_out(&web, "db:5432").await;
    world
        .kubectl(&["label", "namespace", "shop", "team=a", "--overwrite"])
        .await;
    gets_through(&web, "db:5432").await;
    assert_eq!(
        control.figure("squire_control_resource_changes_total", &removed).await,
        0.0,
        "no flash of emptiness"
    );

    // Its rights are withdrawn while it runs; a restarted API server ends every watch, so that it notices.
    world.kubectl(&["delete", "clusterrolebinding", "squire-control"]).await;
    world.api.kill().await;
    world.api.serve().await;
    control
        .problems(&["forbidden", "the right to get, list and watch"])
        .await;
    gets_through(&web, "db:5432").await;
    assert!(
        control
            .figure("squire_control_watch_errors_total", &[("reason", "forbidden")])
            .await
            >= 1.0
    );
    world
        .kubectl(&["label", "namespace", "shop", "team=b", "--overwrite"])
        .await;
    world.api.apply(BINDING).await;
    is_kept_out(&web, "db:5432").await;
    control.problems(&[]).await;
    assert_eq!(
        control.figure("squire_control_resource_changes_total", &removed).await,
        0.0,
        "no flash of emptiness"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_service_account_is_nobody_and_its_connections_are_cut() {
    let Some(world) = World::new().await else { return };
    world.pod("db", "db", "").await;
    world.pod("web", "web", "").await;
    world.pod("batch", "batch", "").await;
    let control = world.control().await;
    let echo = apps::echo().await;
    let db = world.sidecar("db", "db", Some(&echo), &[]).await;
    let web = world.sidecar("web", "web", None, &["db:5432"]).await;
    let batch = world.sidecar("batch", "batch", None, &["db:5432"]).await;
    let mut cut = gets_through(&web, "db:5432").await;
    let mut undisturbed = gets_through(&batch, "db:5432").await;

    world.kubectl(&["delete", "serviceaccount", "web", "-n", "shop"]).await;
    assert!(
        in_time("it is cut", cut.read(&mut [0; 1])).await.is_err(),
        "not an orderly end"
    );
    db.logged(&[("outcome", "cut_revoked")]).await;
    is_kept_out(&web, "db:5432").await;
    apps::round_trip(&mut undisturbed, b"undisturbed").await.unwrap();
    drop(web);

    // An account of the same name does not make the old certificates good; a pod of it gets new ones.
    world
        .api
        .apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: shop}}\n")
        .await;
    world
        .kubectl(&["delete", "pod", "web", "-n", "shop", "--force", "--grace-period=0"])
        .await;
    world.pod("web", "web", "").await;
    let web = world.sidecar("web", "web", None, &["db:5432"]).await;
    eventually("the new one gets through", async || {
        apps::echoes(web.to("db:5432")).await.ok()
    })
    .await;
    assert_eq!(control.figure("squire_control_ready", &[]).await, 1.0);
}
