//! The key material of a cluster: a CA, the certificates of its components and of an admin, the key of service accounts.

use std::{fs, net::IpAddr, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// What a cluster's CA signs with.
pub(super) struct Papers {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    address: IpAddr,
}

impl Papers {
    /// A new CA for an API server at this address.
    pub(super) fn new(address: IpAddr) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).unwrap().pem();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
            address,
        }
    }

    /// Writes everything that the components need.
    pub(super) fn write(&self, dir: &Path, url: &str) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("ca.crt"), &self.certificate).unwrap();
        let names = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "localhost",
        ];
        self.sign(dir, "server", "kube-apiserver", None, &names, self.address);
        let IpAddr::V4(server) = self.address else {
            panic!("loopback is IPv4 here")
        };
        let [first, second, third, _] = server.octets();
        let node = IpAddr::from([first, second, third, 253]);
        self.sign(dir, "node", "system:node", None, &[], node);
        for (file, user, group) in [
            ("admin", "admin", Some("system:masters")),
            (
                "kubelet-client",
                "kube-apiserver-kubelet-client",
                Some("system:masters"),
            ),
            ("controller-manager", "system:kube-controller-manager", None),
            ("scheduler", "system:kube-scheduler", None),
        ] {
            self.sign(dir, file, user, group, &[], self.address);
            let credentials = format!(
                "client-certificate: {}\n    client-key: {}",
                dir.join(format!("{file}.crt")).display(),
                dir.join(format!("{file}.key")).display()
            );
            let config = kubeconfig(url, &dir.join("ca.crt"), &credentials);
            fs::write(dir.join(format!("{file}.kubeconfig")), config).unwrap();
        }
        self.write_callers(dir);
        let accounts = KeyPair::generate().unwrap();
        fs::write(dir.join("accounts.key"), accounts.serialize_pem()).unwrap();
        fs::write(dir.join("accounts.pub"), accounts.public_key_pem()).unwrap();
    }

    /// What the API server shows to admission webhooks that ask for a certificate, and who has signed it: a CA that signs
    /// nothing else, so that no other certificate of the cluster is a webhook's caller.
    fn write_callers(&self, dir: &Path) {
        let callers = Self::new(self.address);
        fs::write(dir.join("webhook-callers.crt"), &callers.certificate).unwrap();
        callers.sign(dir, "webhook-caller", "kube-apiserver", None, &[], self.address);
        let file = |name: &str| dir.join(name).display().to_string();
        let users = format!(
            "apiVersion: v1\nkind: Config\nusers:\n- name: 'squire-injector.squire-system.svc'\n  user: {{client-certificate: \
             {}, client-key: {}}}\n",
            file("webhook-caller.crt"),
            file("webhook-caller.key")
        );
        fs::write(dir.join("webhooks.kubeconfig"), users).unwrap();
        let webhooks = format!(
            "{{apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration, kubeConfigFile: {}}}",
            file("webhooks.kubeconfig")
        );
        let plugins = ["MutatingAdmissionWebhook", "ValidatingAdmissionWebhook"]
            .map(|name| format!("- {{name: {name}, configuration: {webhooks}}}\n"));
        let admission = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n{}",
            plugins.concat()
        );
        fs::write(dir.join("admission.yaml"), admission).unwrap();
    }

    fn sign(&self, dir: &Path, file: &str, user: &str, group: Option<&str>, names: &[&str], address: IpAddr) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.subject_alt_names.push(SanType::IpAddress(address));
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(dir.join(format!("{file}.crt")), certificate.pem()).unwrap();
        fs::write(dir.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }
}

/// A kubeconfig with one cluster and one user, whose credentials are lines of YAML.
pub(super) fn kubeconfig(url: &str, ca: &Path, credentials: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster:\n    server: {url}\n    \
         certificate-authority: {}\ncontexts:\n- name: test\n  context: {{cluster: test, user: test}}\nusers:\n- name: \
         test\n  user:\n    {credentials}\n",
        ca.display()
    )
}
