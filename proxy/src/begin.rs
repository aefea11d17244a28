//! The beginning of an inbound application connection: what does the client speak, and may it? Nobody waits: the
//! application is dialled at once where it may speak first, and whoever speaks first decides. Forwards nothing.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::Arc,
    task::{self, Poll},
};

use squire_mesh::workload::Workload;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    authorize::{self, Answer, OnConnection, Permit, Question},
    connection::{Application, Cut, Direction, Record},
    ext_authz::{Answered, Body, Context, NOBODY_ASKED},
    forward::Interrupted,
    http::{Declared, Edits, detect, h1::Wire},
    outcome::Outcome,
    route::declared,
    shared::Shared,
};

/// The connection that is asked about.
pub(crate) struct Asked<'a> {
    pub(crate) question: Question<'a>,
    /// Where the application listens.
    pub(crate) app: SocketAddr,
}

/// How it goes on.
pub(crate) enum Begun {
    /// HTTP/1: each request is judged. The application may have been dialled already.
    Http1 { app: Option<TcpStream> },
    /// HTTP/2, the same for each of its streams.
    Http2 { app: Option<TcpStream> },
    /// Bytes, which may pass.
    Bytes { permit: Permit, app: TcpStream },
    /// Not at all.
    Refused(Outcome),
}

/// Finds out. `app`: dialled already.
pub(crate) async fn begin<D: Wire>(
    shared: &Arc<Shared>,
    record: &Record,
    asked: &Asked<'_>,
    client: &mut D,
    mut app: Option<TcpStream>,
) -> Begun {
    let snapshot = shared.snapshot();
    let me = snapshot.me.as_deref();
    let declared = me.map_or(Declared::Nothing, |me| declared(&snapshot, me, asked.question.port));
    let mut seen = Application::Unknown;
    if declared != Declared::Bytes && (poll_fill_now(client).await || !client.input().is_empty()) {
        seen = detect(client.input(), declared);
    }
    if declared == Declared::Bytes || (seen == Application::Unknown && client.ended()) {
        seen = Application::Bytes;
    }
    if seen == Application::Unknown && client.input().is_empty() {
        let prospect = authorize::prospect(&snapshot, asked.question);
        match (prospect, authorize::connection(&snapshot, asked.question)) {
            // Nothing it could say would be let in.
            (None, OnConnection::Decided(decision)) if !decision.is_allowed() => seen = Application::Bytes,
            // Providers are asked once it is known that it is bytes, not because nobody has spoken yet.
            (Some(prospect), _) if declared == Declared::Nothing && app.is_none() => {
                match Box::pin(shared.dialer.app(&prospect, asked.app)).await {
                    Ok(tcp) => app = Some(tcp),
                    Err(error) => {
                        if to_ask(shared, record, asked).is_none() {
                            decide(shared, record, asked).await;
                        }
                        return Begun::Refused(Outcome::AppUnreachable(error));
                    }
                }
            }
            _ => {}
        }
    }
    drop(snapshot);
    while seen == Application::Unknown {
        match first_words(shared, record, client, app.as_ref(), declared).await {
            Words::Client => seen = detect(client.input(), declared),
            Words::App | Words::End => seen = Application::Bytes,
            Words::Silence if client.input().is_empty() => return Begun::Refused(Outcome::Denied),
            Words::Silence => seen = Application::Bytes,
            Words::Failed(error) => {
                return Begun::Refused(Outcome::Interrupted(record.near_failed(error)));
            }
            Words::Cut(cut) => return Begun::Refused(Outcome::Interrupted(Interrupted::Cut(cut))),
        }
    }
    if seen == Application::Http1 {
        return Begun::Http1 { app };
    }
    if seen == Application::Http2 {
        return Begun::Http2 { app };
    }
    let Some(answer) = decide(shared, record, asked).await else {
        return Begun::Refused(Outcome::NotReady("policy"));
    };
    let Ok(permit) = answer else {
        return Begun::Refused(Outcome::Denied);
    };
    record.facts().application = Application::Bytes;
    let app = match app {
        Some(app) => app,
        None => match Box::pin(shared.dialer.app(&permit, asked.app)).await {
            Ok(app) => app,
            Err(error) => return Begun::Refused(Outcome::AppUnreachable(error)),
        },
    };
    record.facts().upstream = Some(asked.app);
    Begun::Bytes { permit, app }
}

/// Whether bytes of the client are there, without waiting for them.
async fn poll_fill_now<D: Wire>(client: &mut D) -> bool {
    poll_fn(|cx| Poll::Ready(matches!(client.poll_fill(cx), Poll::Ready(Ok(1..))))).await
}

/// Who has spoken.
enum Words {
    Client,
    App,
    /// The client has ended its half without a word that tells.
    End,
    /// Nobody, for as long as it takes a client that may only speak HTTP.
    Silence,
    Failed(std::io::Error),
    Cut(Cut),
}

/// Waits until one side speaks.
async fn first_words<D: Wire>(
    shared: &Shared,
    record: &Record,
    client: &mut D,
    app: Option<&TcpStream>,
    declared: Declared,
) -> Words {
    let waiting = poll_fn(|cx: &mut task::Context<'_>| {
        if let Poll::Ready(cut) = record.poll_cut(cx) {
            return Poll::Ready(Words::Cut(cut));
        }
        match client.poll_fill(cx) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Words::End),
            Poll::Ready(Ok(_)) => return Poll::Ready(Words::Client),
            Poll::Ready(Err(error)) => return Poll::Ready(Words::Failed(error)),
            Poll::Pending => {}
        }
        match app.map(|app| app.poll_read_ready(cx)) {
            Some(Poll::Ready(_)) => Poll::Ready(Words::App),
            Some(Poll::Pending) | None => Poll::Pending,
        }
    });
    // Where the application has been dialled both may be silent for as long as they like; so may a client of a port
    // that is declared to be HTTP, as on any connection that is kept for later.
    if app.is_some() || declared == Declared::Http {
        return waiting.await;
    }
    let limit = shared.dialer.timeouts.handshake;
    timeout(limit, waiting).await.unwrap_or(Words::Silence)
}

/// Asks policy about bytes and notes the answer in the record. The record is registered by now, so a policy that changes
/// from here on finds the connection and judges it again. None: there is no policy yet.
async fn decide(shared: &Shared, record: &Record, asked: &Asked<'_>) -> Option<Result<Permit, ()>> {
    if let Some(asking) = to_ask(shared, record, asked) {
        let answered = Arc::new(asking.await);
        record.facts().answered = Some(answered);
    }
    let answered = record.facts().answered.clone();
    let snapshot = shared.snapshot();
    let workload = authorize::workload_at(&snapshot, asked.question.remote, asked.question.peer);
    let uid = workload.as_deref().map(|workload: &Workload| workload.uid.clone());
    let (result, decision) =
        match authorize::inbound(&snapshot, asked.question, answered.as_deref().unwrap_or(&NOBODY_ASKED)) {
            Answer::Permitted(permit, decision) => (Ok(permit), decision),
            Answer::Denied(decision) => (Err(()), decision),
            Answer::NotReady(_) => return None,
        };
    shared.metrics.decided(Direction::Inbound, &decision);
    let mut facts = record.facts();
    facts.peer_workload = uid;
    facts.decision = Some(decision);
    drop(facts);
    record.count_in(shared.metrics.series_of(record));
    Some(result)
}

/// Asks the external providers that a connection of bytes has to be shown to. None: there is nobody to ask (any more).
/// Their answers belong into the record, where they count for as long as the connection is open.
fn to_ask(
    shared: &Shared,
    record: &Record,
    asked: &Asked<'_>,
) -> Option<impl Future<Output = Answered> + Send + use<>> {
    let snapshot = shared.snapshot();
    let table = snapshot.policy.as_ref()?;
    if table.authorization.custom.is_empty() || record.facts().answered.is_some() {
        return None;
    }
    // Nobody is asked about what is denied whatever they say.
    if let OnConnection::Decided(_) = authorize::connection(&snapshot, asked.question) {
        return None;
    }
    let source = authorize::workload_at(&snapshot, asked.question.remote, asked.question.peer);
    let request = authorize::bytes(&snapshot, asked.question, source.as_deref());
    table.providers_to_ask(&request).next()?;
    let me = shared.credentials.borrow().clone();
    let context = Context {
        source_port: asked.question.remote.port(),
        local: me.as_ref().map(|credentials| credentials.svid.id()),
        request_id: "",
        edits: &Edits::default(),
    };
    Some(shared.callouts.ask(table, &request, None, Body::NONE, &context))
}
