//! A build without root certificates: `cargo test -p outbound --no-default-features --features client --test no_roots`
#![cfg(all(feature = "client", not(any(feature = "platform-verifier", feature = "webpki-roots"))))]

use outbound::{BoxError, Client, ClientExt, ResponseExt, client::ClientBuilder, pool::connect::Matcher};
use outbound_testkit::{Answer, Certificate, Hostile, Script};

fn builder() -> ClientBuilder {
    Client::builder().proxy(Matcher::builder().build())
}

#[test]
fn a_client_that_could_trust_nobody_is_not_built() {
    let error = builder().build().unwrap_err();
    assert_eq!(error.setting(), "tls_config");
    let says = "tls_config: there are no roots to trust: switch on the feature webpki-roots or platform-verifier, or give a config";
    assert_eq!(error.to_string(), says);
}

#[tokio::test]
async fn it_takes_whom_to_trust() -> Result<(), BoxError> {
    let certificate = Certificate::local();
    let client = builder().tls_config(certificate.client([])).build()?;
    let script = || Script::new().exchange(Answer::new(200, "hello"));
    for upstream in [Hostile::new(script()).tls(certificate), Hostile::new(script())] {
        let upstream = upstream.start();
        assert_eq!(client.get(upstream.uri("/")).send().await?.text().await?, "hello");
    }
    Ok(())
}
