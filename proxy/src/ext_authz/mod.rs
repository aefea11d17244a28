//! External authorization (CUSTOM policies, spec §3.11.40): asks the providers a request matches, over HTTP or gRPC, and
//! gives policy their answers. It can only restrict: what an answer means is decided by `squire_mesh::policy`.

mod edits;
mod grpc;
mod http;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use squire_mesh::{
    policy::{Answer, Answers, Provider, ProviderKind, Request, Table},
    spiffe::SpiffeId,
};
use tokio::time::timeout;

use crate::{
    callouts::{client::Client, metrics::CalloutMetrics},
    http::{Edits, LocalReply, RequestView},
};

/// What has been read of a request's body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body<'a> {
    pub(crate) bytes: &'a [u8],
    /// Nothing more follows.
    pub(crate) complete: bool,
}

impl Body<'_> {
    /// Of a request without a body, or where nobody wants to see it.
    pub(crate) const NONE: Self = Body {
        bytes: &[],
        complete: true,
    };
}

/// What providers are told beside what policy knows.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// The client's port.
    pub(crate) source_port: u16,
    /// Our own identity.
    pub(crate) local: Option<&'a SpiffeId>,
    /// Names the request in logs.
    pub(crate) request_id: &'a str,
    /// What tokens want changed: providers see the request as it will be forwarded.
    pub(crate) edits: &'a Edits,
}

/// What providers said.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    answers: Vec<(Box<str>, Answer)>,
    /// Changes to the request's head.
    pub(crate) edits: Edits,
    /// Changes to the head of the application's response.
    pub(crate) response: Edits,
    /// What the client gets if policy denies because of a provider.
    pub(crate) reply: Option<LocalReply>,
}

/// What counts where no provider was asked.
pub(crate) static NOBODY_ASKED: Answered = Answered {
    answers: Vec::new(),
    edits: UNCHANGED,
    response: UNCHANGED,
    reply: None,
};

const UNCHANGED: Edits = Edits {
    remove: Vec::new(),
    set: Vec::new(),
    add: Vec::new(),
    target: None,
};

impl Answers for Answered {
    fn answer(&self, provider: &str) -> Answer {
        let found = self.answers.iter().find(|(name, _)| **name == *provider);
        found.map_or(Answer::Error, |(_, answer)| *answer)
    }
}

/// One provider's answer.
enum Said {
    Allow { edits: Edits, response: Edits },
    Deny(LocalReply),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no answer within its timeout")]
    Timeout,
    #[error("{0}")]
    NoAnswer(String),
}

/// A check, ready to be sent.
enum Check {
    Http(Box<http::Check>),
    Grpc(Box<grpc::Check>),
    /// The body is longer than the provider wants to see.
    TooLarge,
    /// It cannot be asked at all; `fail_open` is for providers that could be.
    Misconfigured,
    /// It cannot be shown this request.
    NotShowable(&'static str),
}

/// Asks providers.
pub(crate) struct Asker {
    reach: Arc<Reach>,
}

struct Reach {
    client: Arc<Client>,
    channels: grpc::Channels,
    metrics: Arc<CalloutMetrics>,
    /// Providers that failed when last asked, so that each change is told once.
    failing: Mutex<HashSet<Box<str>>>,
}

impl Asker {
    pub(crate) fn new(client: Arc<Client>, metrics: Arc<CalloutMetrics>) -> Self {
        Self {
            reach: Arc::new(Reach {
                client,
                channels: grpc::Channels::default(),
                metrics,
                failing: Mutex::default(),
            }),
        }
    }

    /// See [`crate::callouts::Callouts::body_wanted`].
    pub(crate) fn body_wanted(table: &Table, request: &Request<'_>) -> usize {
        if table.authorization.custom.is_empty() {
            return 0;
        }
        let sizes = table.providers_to_ask(request).filter_map(|provider| provider.body);
        sizes.map(|body| body.max_bytes as usize).max().unwrap_or(0)
    }

    /// See [`crate::callouts::Callouts::ask`].
    pub(crate) fn ask(
        &self,
        table: &Table,
        request: &Request<'_>,
        view: Option<&RequestView<'_>>,
        body: Body<'_>,
        context: &Context<'_>,
    ) -> impl Future<Output = Answered> + Send + use<> {
        let mut checks: Vec<(Arc<Provider>, Check)> = Vec::new();
        if !table.authorization.custom.is_empty() {
            for provider in table.providers_to_ask(request) {
                if checks.iter().all(|(known, _)| known.name != provider.name) {
                    checks.push((Arc::clone(provider), prepare(provider, request, view, body, context)));
                }
            }
        }
        let target = context.edits.target.as_deref().or(view.and_then(|view| view.target));
        let target = target.map(str::to_owned).filter(|_| !checks.is_empty());
        let reach = Arc::clone(&self.reach);
        async move { reach.ask_all(checks, target).await }
    }
}

fn prepare(
    provider: &Provider,
    request: &Request<'_>,
    view: Option<&RequestView<'_>>,
    body: Body<'_>,
    context: &Context<'_>,
) -> Check {
    if provider.address.is_none() {
        return Check::Misconfigured;
    }
    let shown = match provider.body {
        None => Body::NONE,
        Some(limit) => {
            let fits = body.complete && body.bytes.len() <= limit.max_bytes as usize;
            if !fits && !limit.allow_partial {
                return Check::TooLarge;
            }
            Body {
                bytes: &body.bytes[..body.bytes.len().min(limit.max_bytes as usize)],
                complete: fits,
            }
        }
    };
    match (provider.kind, view) {
        (ProviderKind::Grpc, _) => Check::Grpc(Box::new(grpc::check(provider, request, view, shown, context))),
        (ProviderKind::Http, Some(view)) => match http::check(provider, view, shown, context) {
            Ok(check) => Check::Http(Box::new(check)),
            Err(why) => Check::NotShowable(why),
        },
        (ProviderKind::Http, None) => Check::NotShowable("a connection of bytes cannot be shown over HTTP"),
    }
}

impl Reach {
    /// In the order of the policies, until one denies.
    async fn ask_all(&self, checks: Vec<(Arc<Provider>, Check)>, target: Option<String>) -> Answered {
        let mut answered = Answered::default();
        for (provider, check) in checks {
            let started = Instant::now();
            let (answer, label) = self.ask_one(&provider, check, target.as_deref(), &mut answered).await;
            let kind = match provider.kind {
                ProviderKind::Http => "http",
                ProviderKind::Grpc => "grpc",
            };
            self.metrics.checked(kind, label, started.elapsed());
            let stop = answer == Answer::Deny || (answer == Answer::Error && !provider.fail_open);
            answered.answers.push((provider.name.clone(), answer));
            if stop {
                break;
            }
        }
        answered
    }

    async fn ask_one(
        &self,
        provider: &Provider,
        check: Check,
        target: Option<&str>,
        answered: &mut Answered,
    ) -> (Answer, &'static str) {
        let answer = match check {
            Check::TooLarge => {
                answered.reply = Some(LocalReply::text(413, "Payload Too Large"));
                return (Answer::Deny, "too_large");
            }
            Check::Misconfigured => {
                answered.reply = Some(failed(provider));
                return (Answer::Deny, "misconfigured");
            }
            Check::NotShowable(why) => Err(Failure::NoAnswer(why.to_owned())),
            Check::Http(check) => {
                let asking = http::ask(&self.client, provider, *check);
                timeout(provider.timeout, asking).await.unwrap_or(Err(Failure::Timeout))
            }
            Check::Grpc(check) => {
                let asking = self.channels.ask(&self.client, provider, *check, target);
                timeout(provider.timeout, asking).await.unwrap_or(Err(Failure::Timeout))
            }
        };
        self.tell(provider, answer.as_ref().err());
        match answer {
            Ok(Said::Allow { edits, response }) => {
                answered.edits = std::mem::take(&mut answered.edits).then(edits);
                answered.response = std::mem::take(&mut answered.response).then(response);
                (Answer::Allow, "allow")
            }
            Ok(Said::Deny(reply)) => {
                answered.reply = Some(reply);
                (Answer::Deny, "deny")
            }
            Err(failure) => {
                if !provider.fail_open {
                    answered.reply = Some(failed(provider));
                }
                let label = match failure {
                    Failure::Timeout => "timeout",
                    Failure::NoAnswer(_) => "error",
                };
                (Answer::Error, label)
            }
        }
    }

    /// Logs when a provider begins to fail, and when it answers again.
    fn tell(&self, provider: &Provider, failure: Option<&Failure>) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let name = &*provider.name;
        match failure {
            Some(why) if failing.insert(name.into()) => {
                let passes = provider.fail_open;
                tracing::warn!(provider = name, %why, fail_open = passes, "an authorization provider cannot be asked");
            }
            None if failing.remove(name) => tracing::info!(provider = name, "the authorization provider answers again"),
            _ => {}
        }
    }
}

/// The reply where a provider could not be asked.
fn failed(provider: &Provider) -> LocalReply {
    LocalReply::text(provider.status_on_error, "external authorization failed")
}

#[cfg(test)]
mod tests;
