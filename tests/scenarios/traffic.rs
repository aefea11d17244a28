//! Where requests go: routes, retries, timeouts, and the balancing of what is left among the endpoints, through real
//! sidecars.

mod endpoints;
mod grpc;
mod limits;
mod retries;
mod routes;

use std::collections::HashMap;

use squire_tests::{
    Mesh, Sidecar,
    backend::Backend,
    http::{Answer, Client},
    http2::Http2App,
};

/// A Service of pods with this tier, reached on port 80.
fn service(mesh: &Mesh, name: &str, annotations: &str) {
    mesh.write(
        &format!("service-{name}.yaml"),
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop, annotations: \
             {{{annotations}}}}}\nspec:\n  clusterIP: None\n  selector: {{tier: {name}}}\n  ports: [{{name: http, port: 80, \
             targetPort: 8080}}]\n"
        ),
    );
}

/// An HTTPRoute of the Service `front` with these rules (YAML).
fn route(mesh: &Mesh, rules: &str) {
    mesh.write(
        "route.yaml",
        &format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: front, namespace: \
             shop}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: front, port: 80}}]\n  rules:\n{rules}"
        ),
    );
}

/// Makes a pod one of a Service's.
fn member(mesh: &Mesh, name: &str, tier: &str, ready: bool, zone: &str) {
    let (address, ready) = (mesh.address(name), if ready { "True" } else { "False" });
    mesh.write(
        &format!("workload-{name}.yaml"),
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{tier: {tier}, \
             topology.kubernetes.io/zone: {zone}}}, annotations: {{squire.mesh/transport: squire}}}}\nspec: \
             {{serviceAccountName: {name}, containers: [{{name: app}}]}}\nstatus: {{phase: Running, podIP: {address}, \
             conditions: [{{type: Ready, status: '{ready}'}}]}}\n"
        ),
    );
}

/// `web` and two instances of `front`, `one` in its own zone and `two` in another.
struct Shop {
    one: Backend,
    two: Backend,
    /// Their sidecars.
    sidecars: [Sidecar; 2],
    web: Sidecar,
}

impl Shop {
    async fn client(&self) -> Client {
        Client::connect(self.web.to("front.shop:80")).await.unwrap()
    }

    async fn counts(&self, metric: &str, label: (&str, &str)) {
        self.web.counts(metric, &[label], 1.0).await;
    }
}

/// With `front` annotated like this.
async fn shop(mesh: &Mesh, annotations: &str) -> Shop {
    service(mesh, "front", annotations);
    let (one, two) = tokio::join!(Backend::start("one"), Backend::start("two"));
    let (first, second) = (mesh.pod("one"), mesh.pod("two"));
    let web = mesh.pod("web").reaches("front.shop:80");
    member(mesh, "one", "front", true, "a");
    member(mesh, "two", "front", true, "b");
    member(mesh, "web", "web", true, "a");
    mesh.start().await;
    let (first, second, web) = tokio::join!(
        first.serves(8080, one.address()).start(),
        second.serves(8080, two.address()).start(),
        web.start()
    );
    Shop {
        one,
        two,
        sidecars: [first, second],
        web,
    }
}

async fn request(client: &mut Client, method: &str, path: &str, fields: &str) -> Answer {
    client
        .ask(&format!("{method} {path} HTTP/1.1\r\nHost: front\r\n{fields}\r\n"))
        .await
}

async fn get(client: &mut Client, path: &str) -> Answer {
    request(client, "GET", path, "").await
}

/// Who answered so many requests, how often each.
async fn spread(client: &mut Client, path: &str, times: usize) -> HashMap<String, usize> {
    let mut seen = HashMap::new();
    for _ in 0..times {
        let answer = get(client, path).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        *seen.entry(answer.field("x-backend").unwrap().to_owned()).or_default() += 1;
    }
    seen
}

const ANY_ZONE: &str = "squire.mesh/prefer-zone: 'false'";

/// `web` and two instances of `front` that speak HTTP/2.
async fn shop2(mesh: &Mesh, annotations: &str) -> ([Http2App; 2], [Sidecar; 3]) {
    service(mesh, "front", annotations);
    let apps = [Http2App::start("one").await, Http2App::start("two").await];
    let (first, second) = (mesh.pod("one"), mesh.pod("two"));
    let web = mesh.pod("web").reaches("front.shop:80");
    member(mesh, "one", "front", true, "a");
    member(mesh, "two", "front", true, "b");
    member(mesh, "web", "web", true, "a");
    mesh.start().await;
    let (first, second, web) = tokio::join!(
        first.serves(8080, apps[0].address()).start(),
        second.serves(8080, apps[1].address()).start(),
        web.start()
    );
    (apps, [web, first, second])
}
