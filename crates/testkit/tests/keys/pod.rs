//! What a pod has in Kubernetes: a token of its own, and an API server that vouches for it (a stand-in that says yes).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use terms::{Clock, SystemClock};
use testkit::OpenBao;
use testkit::certificates::House;

/// Lets pods with the service account `bowline` of the namespace `db` log in to this policy; returns such a pod's token.
pub fn let_pods_in(bao: &OpenBao, policy: &str) -> String {
    let vouches = vouching_server();
    let authority = std::fs::read_to_string(House::new().file("ca.pem")).expect("a certificate");
    bao.ask("POST /v1/sys/auth/kubernetes", &json!({ "type": "kubernetes" }));
    let config =
        json!({ "kubernetes_host": vouches, "token_reviewer_jwt": "reviewer", "disable_local_ca_jwt": true, "kubernetes_ca_cert": authority });
    bao.ask("POST /v1/auth/kubernetes/config", &config);
    let role = json!({ "bound_service_account_names": "bowline", "bound_service_account_namespaces": "db", "token_policies": policy });
    bao.ask("POST /v1/auth/kubernetes/role/bowline", &role);
    let now = SystemClock.now().unix_micros() / 1_000_000;
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "iss": "https://kubernetes", "sub": "system:serviceaccount:db:bowline", "aud": ["https://kubernetes"],
        "iat": now - 60, "nbf": now - 60, "exp": now + 3600,
        "kubernetes.io": { "namespace": "db", "serviceaccount": { "name": "bowline", "uid": "u1" } },
    });
    // Nobody here checks the signature: that is what the API server is asked for.
    format!("{}.{}.{}", part(json!({ "alg": "RS256", "typ": "JWT", "kid": "a" })), part(claims), URL_SAFE_NO_PAD.encode([7; 256]))
}

fn vouching_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("its address"));
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.expect("a connection");
            let (mut request, mut some) = (Vec::new(), [0; 4096]);
            while !request.ends_with(b"}") && !request.ends_with(b"}\n") {
                match connection.read(&mut some) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => request.extend_from_slice(&some[..count]),
                }
            }
            let user = json!({ "username": "system:serviceaccount:db:bowline", "uid": "u1", "groups": ["system:serviceaccounts"] });
            let status = json!({ "authenticated": true, "user": user, "audiences": ["https://kubernetes"] });
            let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status });
            let body = body.to_string();
            let head =
                format!("HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(body.as_bytes()));
        }
    });
    address
}
