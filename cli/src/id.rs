//! `squire id`: what an identity or a certificate says of itself. Nothing is verified here: who signed a certificate is
//! not looked at.

use std::{fs, time::SystemTime};

use anyhow::{Context as _, anyhow};
use clap::Subcommand;
use serde_json::{Value, json};
use squire_mesh::{
    spiffe::SpiffeId,
    svid::{self, Serial, UnverifiedSigner},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    exit::{Failure, Outcome},
    output::{Format, show},
};

const EXAMPLES: &str = "\
Examples:
  squire id inspect spiffe://cluster.local/ns/shop/sa/web
  squire id inspect --leaf spiffe://cluster.local      a leaf must have a path
  squire id inspect cert.pem                           what the first certificate in the file says
  squire id inspect ca/root.pem                        the same for a CA's: root or intermediate, for which trust domain

Exit code 0 if it is valid, 1 if not: then the reason names the section of the SPIFFE standard.
A certificate is only read here; who signed it is checked by proxies.";

/// Look at SPIFFE IDs and X.509-SVIDs
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: IdCommand,
}

#[derive(Debug, Subcommand)]
enum IdCommand {
    Inspect(Inspect),
}

/// Show what a SPIFFE ID or a certificate says, and whether it is valid
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct Inspect {
    /// The ID or certificate is meant for a leaf: it must have a path, and must not be a CA's
    #[arg(long)]
    leaf: bool,
    /// How to show the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// A SPIFFE ID, or a PEM file
    #[arg(value_name = "SPIFFE-ID | CERT.pem", allow_hyphen_values = true)]
    subject: String,
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        match self.command {
            IdCommand::Inspect(inspect) => inspect.run(),
        }
    }
}

/// What was found out: facts in their order, and the reason why it is not valid, if it is not.
struct Found {
    facts: Vec<(&'static str, String)>,
    reason: Option<String>,
}

impl Inspect {
    fn run(self) -> Outcome {
        let found = if fs::metadata(&self.subject).is_ok_and(|file| file.is_file()) {
            certificate(&self.subject, self.leaf)?
        } else {
            spiffe_id(&self.subject, self.leaf)
        };
        show(self.output, &document(&found), |_| lines(&found))?;
        if found.reason.is_none() {
            Ok(())
        } else {
            Err(Failure::finding())
        }
    }
}

fn spiffe_id(text: &str, leaf: bool) -> Found {
    match text.parse::<SpiffeId>() {
        Ok(id) if leaf && id.path().is_empty() => Found {
            facts: facts(&id),
            reason: Some("the SPIFFE ID of a leaf must have a path (X.509-SVID 3.1)".to_owned()),
        },
        Ok(id) => Found {
            facts: facts(&id),
            reason: None,
        },
        Err(error) => Found {
            facts: Vec::new(),
            reason: Some(error.to_string()),
        },
    }
}

fn facts(id: &SpiffeId) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("spiffeId", id.as_str().to_owned()),
        ("trustDomain", id.trust_domain().as_str().to_owned()),
        ("path", id.path().to_owned()),
    ];
    facts.extend(id.namespace().map(|namespace| ("namespace", namespace.to_owned())));
    facts.extend(
        id.service_account()
            .map(|account| ("serviceAccount", account.to_owned())),
    );
    facts
}

fn certificate(file: &str, leaf: bool) -> Result<Found, Failure> {
    let text = fs::read(file)
        .with_context(|| format!("cannot read {file}"))
        .map_err(Failure::configuration)?;
    let blocks = pem::parse_many(&text)
        .with_context(|| format!("{file} is not PEM"))
        .map_err(Failure::configuration)?;
    let certificate = blocks
        .iter()
        .find(|block| block.tag() == "CERTIFICATE")
        .ok_or_else(|| Failure::configuration(anyhow!("{file} holds no certificate (no BEGIN CERTIFICATE)")))?;
    let (der, now) = (certificate.contents(), SystemTime::now());
    if let Ok(Some(signer)) = svid::inspect_signer_unverified(der)
        && !leaf
    {
        return Ok(signing(&signer, now));
    }
    Ok(match svid::inspect_unverified(der, now) {
        Err(error) => Found {
            facts: Vec::new(),
            reason: Some(error.to_string()),
        },
        Ok(leaf) => {
            let mut all = vec![("kind", "leaf (X.509-SVID)".to_owned())];
            all.extend(facts(&leaf.id));
            all.extend(span(&leaf.serial, leaf.not_before, leaf.not_after));
            Found {
                facts: all,
                reason: None,
            }
        }
    })
}

/// A CA's certificate is no leaf, and need not be one.
fn signing(signer: &UnverifiedSigner, now: SystemTime) -> Found {
    let kind = if signer.self_issued { "root" } else { "intermediate" };
    let mut all = vec![("kind", format!("signing certificate of a CA ({kind})"))];
    if let Ok(Some(id)) = signer.id() {
        all.push(("spiffeId", id.as_str().to_owned()));
        all.push(("trustDomain", id.trust_domain().as_str().to_owned()));
    }
    all.push(("subject", signer.subject.clone()));
    all.push(("issuer", signer.issuer.clone()));
    all.extend(signer.path_length.map(|length| ("pathLength", length.to_string())));
    all.extend(span(&signer.serial, signer.not_before, signer.not_after));
    Found {
        facts: all,
        reason: signer.check(now).err().map(|fault| fault.to_string()),
    }
}

fn span(serial: &Serial, not_before: SystemTime, not_after: SystemTime) -> [(&'static str, String); 3] {
    [
        ("serial", serial.to_string()),
        ("notBefore", time(not_before)),
        ("notAfter", time(not_after)),
    ]
}

fn time(time: SystemTime) -> String {
    OffsetDateTime::from(time)
        .format(&Rfc3339)
        .unwrap_or_else(|_| "out of range".to_owned())
}

fn document(found: &Found) -> Value {
    let mut document = json!({ "valid": found.reason.is_none() });
    if let Value::Object(map) = &mut document {
        map.extend(
            found
                .facts
                .iter()
                .map(|(name, value)| ((*name).to_owned(), json!(value))),
        );
        map.extend(found.reason.iter().map(|reason| ("reason".to_owned(), json!(reason))));
    }
    document
}

fn lines(found: &Found) -> String {
    let line = |name: &str, value: &str| format!("{name:<15} {value}\n");
    let facts = found.facts.iter().map(|(name, value)| line(name, value));
    let valid = line("valid", if found.reason.is_none() { "yes" } else { "no" });
    let reason = found.reason.iter().map(|reason| line("reason", reason));
    facts.chain([valid]).chain(reason).collect()
}
