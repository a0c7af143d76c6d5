//! Names resolved by hickory-resolver, against a name server that is scripted here.
#![cfg(feature = "hickory")]

mod support;

use std::{net::SocketAddr, time::Duration};

use hyper_util::client::legacy::connect::dns::Name;
use outbound_core::{Delivery, Failure, Kind, Phase};
use outbound_pool::connect::{
    Hickory, Tcp,
    hickory_resolver::{
        TokioResolver,
        config::{ConnectionConfig, NameServerConfig, ResolverConfig},
        net::runtime::TokioRuntimeProvider,
    },
};
use outbound_testkit::{Friendly, handler};
use support::*;
use tokio::net::UdpSocket;
use tower::ServiceExt;

/// Knows `a.example`, fails at `fails.example`, and never heard of anything else (RFC 1035, 4).
async fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut query).await.unwrap();
            let name_end = 12 + query[12..length].iter().position(|&byte| byte == 0).unwrap() + 1;
            let (name, kind) = (&query[12..name_end], query[name_end + 1]);
            let is_known = name == b"\x01a\x07example\0";
            let code = if is_known {
                0
            } else if name.starts_with(b"\x05fails") {
                2
            } else {
                3
            };
            let has_answer = is_known && kind == 1;
            let mut answer = query[..2].to_vec();
            answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(has_answer), 0, 0, 0, 0]);
            answer.extend(&query[12..name_end + 4]);
            if has_answer {
                answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x01");
            }
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    addr
}

async fn resolver() -> Hickory {
    let addr = name_server().await;
    let mut connection = ConnectionConfig::udp();
    connection.port = addr.port();
    let server = NameServerConfig::new(addr.ip(), true, vec![connection]);
    let config = ResolverConfig::from_parts(None, vec![], vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().attempts = 1;
    builder.options_mut().timeout = Duration::from_secs(5);
    Hickory::new(builder.build().unwrap())
}

#[tokio::test]
async fn a_name_server_is_asked() {
    let resolver = resolver().await;
    let found: Vec<_> =
        resolver.clone().oneshot("a.example".parse::<Name>().unwrap()).await.unwrap().collect();
    assert_eq!(found, [SocketAddr::from(([127, 0, 0, 1], 0))]);

    let upstream = Friendly::new(handler::hello).start();
    let pool = build_with(Tcp::with_resolver(resolver));
    let uri = |host| format!("http://{host}:{}/", upstream.addr().port()).parse().unwrap();
    assert_eq!(fetch(&pool, get(uri("a.example"))).await.unwrap().body(), "hello");
    for name in ["nobody.example", "fails.example"] {
        let error = fetch(&pool, get(uri(name))).await.map(drop).unwrap_err();
        let failure = Failure::of(&*error);
        assert_eq!((failure.kind(), failure.phase()), (Kind::Resolve, Some(Phase::Resolve)), "{error}");
        assert_eq!(failure.delivery(), Delivery::NotSent, "{error}");
        assert!(error.to_string().contains("name not resolved after"), "{error}");
    }
    leaves_nothing("hickory", pool, &[&upstream]).await;
}
