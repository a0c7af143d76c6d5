//! Over real sockets: the pool, which tells, and clients of others, which do not.

mod support;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use outbound_core::{BoxError, Exchange, Phase};
use outbound_guard::{Leak, LeakGuardLayer, SendExt};
use outbound_pool::{Pool, connect::Tcp};
use outbound_testkit::{Friendly, Gate, handler};
use support::*;
use tower::Layer;

#[tokio::test]
async fn the_pool_tells_connection_and_cost() -> Result<(), BoxError> {
    let upstream = Friendly::new(handler::fixed(100_000)).start();
    let log = Log::new();
    let (layer, detector) = LeakGuardLayer::builder().callback(log.callback()).pair();
    let client = layer.layer(Pool::builder().build(Tcp::new())?);

    for tracked in [false, true] {
        let mut request = request(upstream.uri("/?token=secret"));
        if tracked {
            Exchange::track(&mut request);
        }
        let mut body = client.send(request).await?.into_body();
        body.frame().await.unwrap()?;
        let [holding] = &detector.snapshot()[..] else { panic!("one is open") };
        assert_eq!(holding.declared, Some(100_000));
        assert!(holding.read > 0 && holding.idle.is_some(), "{holding}");
        assert_eq!(holding.phase, Some(Phase::Body));
        assert_eq!(holding.connection.is_some(), tracked);
        drop(body);
        let Leak::Abandoned { cost_connection, .. } = log.last() else { panic!("{}", log.last()) };
        assert_eq!(cost_connection, tracked.then_some(true));
        if tracked {
            assert!(log.last().to_string().starts_with(
                "response body dropped before its end, which closed its connection: http://127.0.0.1"
            ));
        }
    }
    upstream.all_closed().await;
    assert_eq!(upstream.sightings().connections.len(), 2, "it did cost them");
    Ok(())
}

/// The pool reads the little that is left, and keeps the connection.
#[tokio::test]
async fn a_body_that_is_dropped_shortly_before_its_end_costs_nothing() -> Result<(), BoxError> {
    let upstream = Friendly::new(handler::fixed(5_000)).start();
    let log = Log::new();
    let (layer, _detector) = LeakGuardLayer::builder().callback(log.callback()).pair();
    let pool = Pool::builder().build(Tcp::new())?;
    let client = layer.layer(pool.clone());
    for call in 1..=2 {
        let mut request = request(upstream.uri("/"));
        let exchange = Exchange::track(&mut request);
        drop(client.send(request).await?);
        let Leak::Abandoned { cost_connection, .. } = log.last() else { panic!("{}", log.last()) };
        assert_ne!(cost_connection, Some(true), "call {call}");
        assert!(!log.last().to_string().contains("closed"), "{}", log.last());
        until(|| pool.stats().connections.idle == 1).await;
        assert_eq!(exchange.is_kept(), Some(true), "call {call}");
    }
    assert_eq!(upstream.sightings().connections.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_call_is_seen_in_every_phase() -> Result<(), BoxError> {
    let gate = Gate::new("answer");
    let upstream = Friendly::new(handler::gated(&gate, handler::hello)).start();
    let (layer, detector) = LeakGuardLayer::pair();
    let client =
        layer.layer(Pool::builder().max_connections(1).max_connections_per_host(1).build(Tcp::new())?);
    let call = |tracked: bool| {
        let mut request = request(upstream.uri("/"));
        if tracked {
            Exchange::track(&mut request);
        }
        tokio::spawn(client.send(request))
    };
    let first = call(true);
    upstream.requests(1).await;
    let (second, third) = (call(true), call(false));
    until(|| detector.snapshot().len() == 3).await;
    let phases: Vec<_> = detector.snapshot().iter().map(|holding| holding.phase).collect();
    assert_eq!(phases, [Some(Phase::Head), Some(Phase::Acquire), None]);
    assert!(detector.snapshot().iter().all(|holding| holding.idle.is_none()));
    let stats = detector.stats();
    assert_eq!((stats.calls, stats.bodies, stats.held), (3, 0, 0));
    gate.open();
    for call in [first, second, third] {
        assert_eq!(call.await??.into_body().collect().await?.to_bytes(), "hello");
    }
    detector.assert_no_leaks();
    Ok(())
}

/// Who waits in vain learns who is in the way.
#[tokio::test]
async fn an_acquire_timeout_names_the_holders() -> Result<(), BoxError> {
    let upstream = Friendly::new(handler::fixed(100_000)).start();
    let (layer, detector) = LeakGuardLayer::pair();
    let builder = Pool::builder().max_connections(1).max_connections_per_host(1);
    let client = layer.layer(builder.acquire_timeout(ms(50)).build(Tcp::new())?);
    let held = client.send(request(upstream.uri("/"))).await?;
    let line = line!() - 1;

    let error = client.send(request(upstream.uri("/"))).await.unwrap_err();
    let [holder] = &detector.holders(&*error)[..] else { panic!("one is open") };
    assert_eq!(holder.site.unwrap().location().line(), line);
    // The pool itself names the line of the oldest exchange, where it is known.
    assert!(error.to_string().contains(&format!("clients.rs:{line}")), "{error}");

    let other: BoxError = "broken".into();
    assert!(detector.holders(&*other).is_empty(), "it waited for nobody");
    drop(held);
    Ok(())
}

#[tokio::test]
async fn it_works_over_reqwest() -> Result<(), BoxError> {
    let upstream = Friendly::new(handler::fixed(100_000)).start();
    let log = Log::new();
    let (layer, detector) = LeakGuardLayer::builder().callback(log.callback()).pair();
    let inner = reqwest::Client::new();
    let client = layer.layer(tower::service_fn(move |request: Request<reqwest::Body>| {
        let (inner, request) = (inner.clone(), reqwest::Request::try_from(request));
        async move { Ok::<_, BoxError>(http::Response::<reqwest::Body>::from(inner.execute(request?).await?)) }
    }));
    let send = || client.send(Request::get(upstream.uri("/")).body(reqwest::Body::default()).unwrap());
    send().await?.into_body().collect().await?;
    detector.assert_no_leaks();
    drop(send().await?);
    let Leak::Abandoned { holding, cost_connection, .. } = log.last() else { panic!("{}", log.last()) };
    assert_eq!((holding.read, holding.declared, cost_connection), (0, Some(100_000), None));
    Ok(())
}

fn request(uri: Uri) -> Request<Empty<Bytes>> {
    Request::get(uri).body(Empty::new()).unwrap()
}

/// Lets others run until `met`.
async fn until(mut met: impl FnMut() -> bool) {
    while !met() {
        tokio::task::yield_now().await;
    }
}
