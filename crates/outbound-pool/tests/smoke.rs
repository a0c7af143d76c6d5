use std::time::Duration;
use http_body_util::{BodyExt, Empty};
use outbound_pool::{Pool, connect::Tcp};
use outbound_testkit::{Hostile, Script, Friendly, handler};
use tower::ServiceExt;
use bytes::Bytes;

#[tokio::test]
async fn smoke() {
    let upstream = Friendly::new(handler::hello).start();
    let pool = Pool::builder().build(Tcp::new()).unwrap();
    for _ in 0..3 {
        let request = http::Request::get(upstream.uri("/x")).body(Empty::<Bytes>::new()).unwrap();
        let response = pool.clone().oneshot(request).await.unwrap();
        println!("{response:?}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        println!("{body:?} {:?}", pool.stats());
    }
    let hostile = Hostile::new(Script::hello().close()).start();
    for _ in 0..3 {
        let request = http::Request::get(hostile.uri("/x")).body(Empty::<Bytes>::new()).unwrap();
        let response = pool.clone().oneshot(request).await;
        println!("{response:?}");
    }
    drop(pool);
    upstream.all_closed().await;
    let pool = Pool::builder().build(Tcp::new()).unwrap();
    let request = http::Request::get("http://127.0.0.1:1/").body(Empty::<Bytes>::new()).unwrap();
    println!("{}", pool.clone().oneshot(request).await.unwrap_err());
}
