//! What is answered to whom: the page and its files, what it asks for, the metrics, and whether the daemon lives.

use crate::access::{Access, Answer, COOKIE, SESSION};
use crate::door::Peer;
use crate::{Source, metrics, view};
use axum::Router;
use axum::extract::{ConnectInfo, Path, Query, Request, State as Shared};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, COOKIE as COOKIES, HOST, LOCATION, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use terms::{Clock, RecoveryTarget, SystemClock};
use tokio::sync::Semaphore;
use watch::Trouble;

const PAGE: &str = include_str!("assets/index.html");
const LOGIN: &str = include_str!("assets/login.html");
const SCRIPT: &str = include_str!("assets/app.js");
const DRAWINGS: &str = include_str!("assets/drawings.js");
const STYLE: &str = include_str!("assets/style.css");
const ICON: &str = include_str!("assets/icon.svg");

/// The longest target of a plan.
const TARGET_BYTES_MAX: usize = 100;
/// The largest body that anybody may send: a login.
const BODY_BYTES_MAX: usize = 4096;
/// Nothing from elsewhere, nothing written into the page itself, and nobody frames it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What every answer needs.
#[derive(Clone)]
pub(crate) struct State(Arc<Inner>);

struct Inner {
    source: Arc<dyn Source>,
    access: Access,
    is_tls: bool,
    fresh: Duration,
    /// How long a body may take.
    patience: Duration,
    /// A plan reads the repository: one at a time.
    planning: Semaphore,
}

impl State {
    pub(crate) fn new(source: Arc<dyn Source>, access: Access, is_tls: bool, fresh: Duration, patience: Duration) -> Self {
        Self(Arc::new(Inner { source, access, is_tls, fresh, patience, planning: Semaphore::new(1) }))
    }
}

pub(crate) fn router(state: State) -> Router {
    let guarded = Router::new()
        .route("/", get(|| async { file("text/html; charset=utf-8", PAGE) }))
        .route("/metrics", get(count))
        .route("/api/now", get(now))
        .route("/api/runs", get(runs))
        .route("/api/runs/{run}", get(log))
        .route("/api/plan", get(plan))
        .route("/logout", post(logout))
        .layer(from_fn_with_state(state.clone(), guard));
    Router::new()
        .merge(guarded)
        .route("/login", get(|| async { file("text/html; charset=utf-8", LOGIN) }).post(login))
        .route("/app.js", get(|| async { file("text/javascript; charset=utf-8", SCRIPT) }))
        .route("/drawings.js", get(|| async { file("text/javascript; charset=utf-8", DRAWINGS) }))
        .route("/style.css", get(|| async { file("text/css; charset=utf-8", STYLE) }))
        .route("/icon.svg", get(|| async { file("image/svg+xml", ICON) }))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .layer(from_fn_with_state(state.clone(), dress))
        .with_state(state)
}

fn file(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, kind)], text).into_response()
}

/// Headers that every answer bears; callers by a foreign name are sent away where there is no token: another site's page may have
/// been given this host's address under its own name.
async fn dress(Shared(state): Shared<State>, request: Request, next: Next) -> Response {
    let mut response = match state.0.access.is_open() && !is_local(request.headers()) {
        true => (StatusCode::MISDIRECTED_REQUEST, "Ask for it by 127.0.0.1, [::1] or localhost.\n").into_response(),
        false => next.run(request).await,
    };
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: &'static str| headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    set("content-security-policy", POLICY);
    set("x-content-type-options", "nosniff");
    set("x-frame-options", "DENY");
    set("referrer-policy", "no-referrer");
    set("permissions-policy", "camera=(), geolocation=(), microphone=()");
    set("cross-origin-resource-policy", "same-origin");
    set("cross-origin-opener-policy", "same-origin");
    if state.0.is_tls {
        set("strict-transport-security", "max-age=31536000");
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    ["localhost", "127.0.0.1", "::1"].contains(&name)
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(COOKIES).iter().filter_map(|header| header.to_str().ok());
    all.flat_map(|header| header.split(';')).find_map(|one| one.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

async fn guard(Shared(state): Shared<State>, ConnectInfo(Peer(from)): ConnectInfo<Peer>, request: Request, next: Next) -> Response {
    let access = &state.0.access;
    let now = Instant::now();
    if access.is_open() || cookie(request.headers()).is_some_and(|cookie| access.session(cookie, now)) {
        return next.run(request).await;
    }
    let shown = request.headers().get(AUTHORIZATION).and_then(|header| header.to_str().ok()).and_then(|text| text.strip_prefix("Bearer "));
    match shown.map(|shown| access.token(from.ip(), shown.trim(), now)) {
        Some(Answer::Welcome) => next.run(request).await,
        Some(Answer::Wait) => wait(),
        _ if request.uri().path() == "/" => (StatusCode::SEE_OTHER, [(LOCATION, "/login")]).into_response(),
        _ => (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], "It needs the token of [page] token.\n").into_response(),
    }
}

fn wait() -> Response {
    (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "60")], "Too many wrong tokens came from there: wait a minute.\n").into_response()
}

async fn login(Shared(state): Shared<State>, ConnectInfo(Peer(from)): ConnectInfo<Peer>, request: Request) -> Response {
    let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX);
    let Ok(body) = tokio::time::timeout(state.0.patience, body).await else { return StatusCode::REQUEST_TIMEOUT.into_response() };
    let Ok(body) = body else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let body = String::from_utf8_lossy(&body);
    let shown = body.split('&').find_map(|pair| pair.strip_prefix("token=")).map(unescape).unwrap_or_default();
    let (access, now) = (&state.0.access, Instant::now());
    match access.token(from.ip(), shown.trim(), now) {
        Answer::Wait => wait(),
        Answer::Unknown => (StatusCode::SEE_OTHER, [(LOCATION, "/login?wrong")]).into_response(),
        Answer::Welcome => {
            let Some(session) = access.begin(now) else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
            (StatusCode::SEE_OTHER, [(LOCATION, "/".to_owned()), (SET_COOKIE, set_cookie(&session, SESSION, state.0.is_tls))]).into_response()
        }
    }
}

async fn logout(Shared(state): Shared<State>, headers: HeaderMap) -> Response {
    if let Some(cookie) = cookie(&headers) {
        state.0.access.end(cookie);
    }
    let gone = set_cookie("", Duration::ZERO, state.0.is_tls);
    (StatusCode::SEE_OTHER, [(LOCATION, "/login".to_owned()), (SET_COOKIE, gone)]).into_response()
}

fn set_cookie(value: &str, lasts: Duration, is_tls: bool) -> String {
    let secure = if is_tls { "; Secure" } else { "" };
    format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}", lasts.as_secs())
}

/// A form's `+` and `%XX`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        rest = tail;
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            (b'+', ..) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn count(Shared(state): Shared<State>) -> Response {
    let text = metrics(state.0.source.facts().as_deref());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn health(Shared(state): Shared<State>) -> Response {
    match state.0.source.looks_on() {
        true => "lives\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "nothing is observed any more\n").into_response(),
    }
}

async fn ready(Shared(state): Shared<State>) -> Response {
    match state.age() {
        Some(age) if age <= state.0.fresh.as_secs_f64() => "ready\n".into_response(),
        Some(age) => (StatusCode::SERVICE_UNAVAILABLE, format!("the newest observation is {age:.0} s old\n")).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "nothing was observed yet\n").into_response(),
    }
}

impl State {
    fn age(&self) -> Option<f64> {
        Some(SystemClock.now().seconds_since(self.0.source.facts()?.at).max(0.0))
    }
}

async fn now(Shared(state): Shared<State>) -> Response {
    let Some(facts) = state.0.source.facts() else {
        return (StatusCode::SERVICE_UNAVAILABLE, axum::Json(json!({ "trouble": "nothing was observed yet" }))).into_response();
    };
    let alerts = state.0.source.alerts().await;
    axum::Json(view::now(&facts, &alerts, state.age().unwrap_or_default(), !state.0.access.is_open())).into_response()
}

fn trouble(trouble: &Trouble) -> Response {
    (StatusCode::BAD_GATEWAY, axum::Json(json!({ "trouble": trouble }))).into_response()
}

async fn runs(Shared(state): Shared<State>) -> Response {
    match state.0.source.runs().await {
        Ok(runs) => axum::Json(runs).into_response(),
        Err(e) => trouble(&e),
    }
}

async fn log(Shared(state): Shared<State>, Path(run): Path<String>) -> Response {
    match state.0.source.log(&run).await {
        Ok(Some(lines)) => axum::Json(lines).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(e) => trouble(&e),
    }
}

#[derive(Deserialize)]
struct Wish {
    to: String,
}

async fn plan(Shared(state): Shared<State>, Query(Wish { to }): Query<Wish>) -> Response {
    let refused =
        |why: String| (StatusCode::BAD_REQUEST, axum::Json(json!({ "trouble": { "slug": "usage", "summary": why, "detail": "", "hint": "" } })));
    // It becomes a command's argument: only what is a target goes on.
    if to.len() > TARGET_BYTES_MAX || to.starts_with('-') {
        return refused("that is no target".into()).into_response();
    }
    if let Err(e) = RecoveryTarget::parse_at(&to, SystemClock.now()) {
        return refused(e.to_string()).into_response();
    }
    let Ok(_permit) = state.0.planning.try_acquire() else {
        return (
            StatusCode::TOO_MANY_REQUESTS,
            axum::Json(
                json!({ "trouble": { "slug": "busy", "summary": "another plan is being made", "detail": "", "hint": "Try again in a moment." } }),
            ),
        )
            .into_response();
    };
    match state.0.source.plan(&to).await {
        Ok(plan) => axum::Json(plan).into_response(),
        Err(e) => trouble(&e),
    }
}
