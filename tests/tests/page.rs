//! The live page of the admin address, in a headless Chromium. `tests/page.sh` installs one.

#![cfg(target_os = "linux")]

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use transom_tests::{Browser, Kind, Load, Page, Server, View};

const DESK: View = View {
    width: 1200,
    height: 900,
    dark: false,
};
const PHONE: View = View {
    width: 360,
    height: 740,
    dark: true,
};

/// A browser, or a word why this test does nothing.
fn browser(test: &str) -> Option<Browser> {
    let Some(program) = Browser::find() else {
        eprintln!("{test}: skipped, because no chromium is in PATH; tests/page.sh installs one");
        return None;
    };
    Some(Browser::start(&program, test))
}

#[track_caller]
fn fits_in_its_width(page: &mut Page) {
    let widths = page.value("[document.documentElement.scrollWidth, innerWidth]");
    assert!(widths[0].as_u64() <= widths[1].as_u64(), "{widths}");
}

/// Waits until the page has shown two more snapshots: the first may have been on its way.
fn two_more_snapshots(page: &mut Page) {
    let seen = page.value("Number(document.body.dataset.snapshots || 0)");
    page.wait_for(&format!(
        "Number(document.body.dataset.snapshots) >= {seen} + 2"
    ));
}

#[test]
fn shows_what_the_server_does() {
    let Some(mut browser) = browser("page-of-a-server") else {
        return;
    };
    let server = Server::start("oom", "--admin 127.0.0.1:0 --buckets 12 --loops 1");
    let url = format!("http://{}/", server.admin());
    let mut page = browser.open(&url, DESK);

    page.wait_for("document.getElementById('state').dataset.state === 'ready'");
    page.wait_for("document.getElementById('grid').dataset.total === '12'");
    page.wait_for("document.getElementById('culprits-note').textContent === 'none'");
    assert!(
        page.value("document.getElementById('who').textContent")
            .as_str()
            .is_some_and(|text| text.contains(&format!("pid {}", server.pid())))
    );

    // It follows a load while it runs.
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = Load::new(server.address(), 4, vec![Kind::get("/1", 200, "")]).until(&end);
        let load = scope.spawn(move || load.run());
        let rate =
            "parseFloat(document.getElementById('requests-rate').textContent.replaceAll(',', ''))";
        page.wait_for(&format!("{rate} > 0"));
        page.wait_for("document.querySelector('#legend [data-state=idle]').dataset.count > 0");
        page.wait_for("[...document.querySelectorAll('#routes code')].some(it => it.textContent === '/{kib}')");
        end.store(true, Ordering::Relaxed);
        let report = load.join().expect("the load does not panic");
        assert!(report.bad.is_empty(), "{:?}", report.bad);
    });

    // An exhausted request is on the page once the snapshot after its answer is, a quarter of a second later
    // at most.
    assert_eq!(server.get("/1000000").status, 500);
    two_more_snapshots(&mut page);
    let row = page.value("(() => { const row = document.querySelector('#culprits tbody tr'); return row && {...row.dataset, text: row.innerText, fresh: row.className} })()");
    assert_eq!(row["n"], "1", "{row}");
    assert_eq!(row["fresh"], "new", "{row}");
    let text = row["text"].as_str().expect("a row has a text");
    for part in ["/{kib}", "arena", "1,024,000,000", "--bucket-size"] {
        assert!(text.contains(part), "{part} is not in {text:?}");
    }
    assert!(
        page.value("document.getElementById('announce').textContent")
            .as_str()
            .is_some_and(|text| text.starts_with("1 exhausted: /{kib}"))
    );
    let ms = |name: &str| row[name].as_str().and_then(|it| it.parse::<u64>().ok());
    let (Some(happened), Some(shown)) = (ms("unixMs"), ms("shownMs")) else {
        panic!("no times in {row}");
    };
    println!(
        "the exhausted request was on the page after {} ms",
        shown - happened
    );

    // In the dark, and on a phone.
    page.look(PHONE);
    two_more_snapshots(&mut page);
    fits_in_its_width(&mut page);

    assert_eq!(page.complaints(), Vec::<String>::new());
    let requested = page.requested();
    assert!(
        requested.iter().all(|it| it.starts_with(&url)),
        "{requested:?}"
    );
}

/// Serves the page, and any snapshot; may be silent.
struct StandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    snapshot: Mutex<String>,
    away: AtomicBool,
    end: AtomicBool,
}

impl StandIn {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if shared.end.load(Ordering::Relaxed) {
                        return;
                    }
                    if !shared.away.load(Ordering::Relaxed) {
                        answer(stream, &shared);
                    }
                }
            }
        });
        StandIn {
            address,
            shared,
            thread: Some(thread),
        }
    }

    fn shows(&self, snapshot: &Value) {
        *self
            .shared
            .snapshot
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = snapshot.to_string();
    }
}

/// One request, one answer, one connection; browsers also open connections on which they send nothing.
fn answer(mut stream: TcpStream, shared: &Shared) {
    let patience = std::time::Duration::from_secs(1);
    let _ = stream.set_read_timeout(Some(patience));
    let mut request = Vec::new();
    let mut block = [0; 4096];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut block) {
            Ok(read @ 1..) => request.extend_from_slice(&block[..read]),
            _ => return,
        }
    }
    let page = include_str!("../../server/src/admin/page.html");
    let snapshot = shared
        .snapshot
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let (status, kind, body) = if request.starts_with(b"GET / ") {
        (200, "text/html; charset=utf-8", page)
    } else if request.starts_with(b"GET /buckets.json ") {
        (200, "application/json", snapshot.as_str())
    } else {
        (404, "text/plain", "")
    };
    let head = format!(
        "HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body.as_bytes());
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        // It waits for a connection.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The snapshot that `transom top` is tested with, with so many buckets, and names that a page must not
/// believe.
fn snapshot(buckets: usize) -> Value {
    let text = include_str!("../../server/tools/src/top/fixture.json");
    let mut snapshot: Value = serde_json::from_str(text).expect("the fixture is JSON");
    let application = &mut snapshot["application"];
    application["buckets"] = buckets.into();
    application["cells"] = (0..buckets)
        .map(|index| json!([index % 5, index * 100 % 348_096, 300_000]))
        .collect();
    application["culprits"][0]["route"] = "/<b>bold</b>".into();
    application["routes"][0]["route"] =
        "/<img src=x onerror=alert(1)>/{a-name-that-is-longer-than-a-telephone-is-wide}".into();
    snapshot
}

#[test]
fn shows_what_no_server_shows_at_will() {
    let Some(mut browser) = browser("page-of-a-stand-in") else {
        return;
    };
    let stand_in = StandIn::new();
    stand_in.shows(&snapshot(16_384));
    let url = format!("http://{}/", stand_in.address);
    let mut page = browser.open(&url, PHONE);

    // As many buckets as there can be, on a phone; names are text, whatever they say.
    page.wait_for("document.getElementById('grid').dataset.total === '16384'");
    assert_eq!(
        page.value("document.querySelector('#legend [data-state=parked]').dataset.count"),
        "3276"
    );
    assert_eq!(
        page.value("document.querySelectorAll('main img, main b b, main code *').length"),
        0
    );
    assert_eq!(
        page.value("document.querySelector('#culprits code').textContent"),
        "/<b>bold</b>"
    );
    fits_in_its_width(&mut page);
    // Entries from before the page was opened are not news.
    assert_eq!(
        page.value("document.querySelectorAll('#culprits .new').length"),
        0
    );
    page.look(DESK);
    two_more_snapshots(&mut page);
    fits_in_its_width(&mut page);

    // One bucket, and the keyboard.
    stand_in.shows(&snapshot(1));
    page.wait_for("document.getElementById('grid').dataset.total === '1'");
    page.value("document.getElementById('grid').focus()");
    page.press("ArrowRight");
    page.wait_for("document.getElementById('bucket').textContent.startsWith('Bucket 0: unbound')");

    // Parts that a process may lack.
    let mut behind_door = snapshot(64);
    behind_door["front"] = Value::Null;
    stand_in.shows(&behind_door);
    page.wait_for("document.getElementById('connections').closest('div').hidden");
    page.wait_for("!document.getElementById('requests-rate').closest('div').hidden");
    page.wait_for("document.getElementById('grid').dataset.total === '64'");
    let mut front_alone = snapshot(64);
    front_alone["application"] = Value::Null;
    front_alone["ready"] = false.into();
    front_alone["draining"] = true.into();
    stand_in.shows(&front_alone);
    page.wait_for("document.getElementById('buckets').hidden && document.getElementById('routes-section').hidden");
    page.wait_for("!document.getElementById('no-buckets').hidden");
    page.wait_for("document.getElementById('state').textContent === 'draining'");
    assert_eq!(page.complaints(), Vec::<String>::new());
    let requested = page.requested();
    assert!(
        requested.iter().all(|it| it.starts_with(&url)),
        "{requested:?}"
    );

    // The server goes away, and another comes: its entries are new, and rates begin anew.
    stand_in.shared.away.store(true, Ordering::Relaxed);
    page.wait_for("document.getElementById('state').dataset.state === 'lost'");
    page.wait_for("document.getElementById('lost').innerText.includes('does not answer')");
    let mut anew = snapshot(64);
    anew["pid"] = 4712.into();
    anew["uptime_ms"] = 100.into();
    stand_in.shows(&anew);
    stand_in.shared.away.store(false, Ordering::Relaxed);
    page.wait_for("document.getElementById('state').dataset.state === 'ready'");
    page.wait_for("document.getElementById('lost').hidden");
    page.wait_for("document.getElementById('requests-rate').textContent === '–'");
    page.wait_for("document.getElementById('culprits').querySelector('.new')");

    // The page says that another program's JSON is no Transom.
    stand_in.shows(&json!({"hello": 1}));
    page.wait_for("document.getElementById('lost').innerText.includes('no Transom')");
}
