use super::grid::Grid;
use super::*;
use ratatui::crossterm::event::{KeyCode, KeyModifiers};
use serde_json::{Value, json};

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixture.json")).expect("the fixture is JSON")
}

fn address() -> AdminAddress {
    "127.0.0.1:9180".parse().expect("it is one")
}

fn snapshot(value: &Value) -> Snapshot {
    snapshot::parse(&address(), &value.to_string()).expect("it is a snapshot")
}

fn model(values: &[Value]) -> Model {
    let mut model = Model::new(&address());
    for value in values {
        model.hear(Ok(snapshot(value)));
    }
    model
}

/// What a terminal of this size shows.
fn screen(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("it is only memory");
    terminal
        .draw(|frame| view::draw(frame, model))
        .expect("it is only memory");
    terminal.backend().to_string()
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn shows_everything_on_a_small_terminal() {
    let mut later = fixture();
    later["uptime_ms"] = json!(7_513_000);
    later["front"]["requests"] = json!(4_829_954);
    later["application"]["exhausted_arena"] = json!(33);
    let text = screen(&model(&[fixture(), later]), 80, 24);
    has(
        &text,
        &[
            "Transom 0.1.0  ready  pid 4711  up 2 h 5 min  127.0.0.1:9180",
            "requests/s 18,231  exhausted/s 1.0  4xx/s 0.0",
            "request time p50 45µs  p99 362µs  most 1.45s",
            "connections 212 of 1,024",
            "slots 6 of 256",
            "BUCKETS  64 × 512KiB:",
            "· 13 unbound",
            "R 1 resting",
            "X 1 parked",
            "R▄",
            "X█",
            "EXHAUSTED  37 in all",
            "2 s   /{kib}",
            "1000KiB 10.1KiB  340KiB --bucket-size",
            "2 min 5 s X /recurse/{n}",
            "ROUTES",
            "4,811,000",
            "1.19MiB    2MiB",
            "q quit",
        ],
    );
}

#[test]
fn keys_hide_and_show() {
    let mut model = model(&[fixture()]);
    assert!(!screen(&model, 80, 24).contains("EQUATION"));
    for key in ['e', 'b', 'x', 'r'] {
        assert!(model.press(KeyCode::Char(key), KeyModifiers::NONE));
    }
    let text = screen(&model, 80, 24);
    has(
        &text,
        &[
            "EQUATION  resident 61,214,720, 83 % of",
            "2 × 16404KiB",
            "287,531,008",
        ],
    );
    for gone in ["BUCKETS", "EXHAUSTED", "ROUTES"] {
        assert!(!text.contains(gone), "{text}");
    }
    assert!(model.press(KeyCode::Char('c'), KeyModifiers::NONE));
    assert!(!model.press(KeyCode::Char('c'), KeyModifiers::CONTROL));
    assert!(!model.press(KeyCode::Char('q'), KeyModifiers::NONE));
}

#[test]
fn a_process_may_lack_a_front_end_or_an_application() {
    let mut behind_door = fixture();
    behind_door["front"] = Value::Null;
    let text = screen(&model(&[behind_door]), 80, 24);
    has(&text, &["requests/s -  exhausted/s -", "BUCKETS", "ROUTES"]);
    assert!(
        !text.contains("connections") && !text.contains("4xx"),
        "{text}"
    );

    let mut front_alone = fixture();
    front_alone["application"] = Value::Null;
    let text = screen(&model(&[front_alone]), 80, 24);
    has(
        &text,
        &[
            "requests/s -  4xx/s -",
            "connections 212",
            "No buckets in this process",
        ],
    );
    assert!(
        !text.contains("EXHAUSTED") && !text.contains("ROUTES"),
        "{text}"
    );
}

#[test]
fn one_bucket_and_thousands() {
    let mut one = fixture();
    one["application"]["buckets"] = json!(1);
    one["application"]["cells"] = json!([[2, 174_048, 174_048]]);
    has(
        &screen(&model(&[one]), 80, 24),
        &["BUCKETS  1 × 512KiB", "b▄"],
    );

    let mut many = fixture();
    let mut cells = vec![json!([1, 1000, 2000]); 4096];
    cells[4095] = json!([4, 348_096, 348_096]);
    many["application"]["buckets"] = json!(4096);
    many["application"]["cells"] = json!(cells);
    let text = screen(&model(&[many]), 80, 24);
    // The lost bucket is seen, whichever others share its place.
    has(
        &text,
        &["BUCKETS  4,096 × 512KiB,", "to a character", "▁▁▁X"],
    );
}

#[test]
fn a_bucket_that_is_lost_by_time_is_seen_though_it_is_busy() {
    let mut later = fixture();
    later["application"]["cells"] = json!([[2, 0, 0], [2, 174_048, 174_048], [1, 0, 0]]);
    later["application"]["buckets"] = json!(3);
    later["application"]["lost"] = json!({"parked": 0, "resting": 0, "overdue": 1, "by_time": [1]});
    let text = screen(&model(&[later]), 100, 24);
    has(&text, &["b_ L▄  _", "L 1 lost by time"]);
}

#[test]
fn any_size_of_the_terminal_and_of_the_grid() {
    let model = model(&[fixture()]);
    for (width, height) in [(1, 1), (20, 5), (40, 10), (80, 24), (300, 100)] {
        let _ = screen(&model, width, height);
    }
    for buckets in [1, 2, 26, 27, 64, 240, 241, 4096, 16_384] {
        for (columns, rows) in [(80, 3), (80, 8), (1, 1), (0, 0), (300, 60)] {
            let grid = Grid::new(buckets, columns, rows);
            let places = buckets.div_ceil(grid.each);
            assert!(
                places <= grid.columns * rows.max(1),
                "{buckets} {columns} {rows} {grid:?}"
            );
        }
    }
}

#[test]
fn rates_begin_anew_with_the_server() {
    let mut anew = fixture();
    anew["pid"] = json!(4712);
    anew["uptime_ms"] = json!(100);
    anew["front"]["requests"] = json!(3);
    let text = screen(&model(&[fixture(), anew]), 80, 24);
    has(&text, &["pid 4712  up 0 s", "requests/s -"]);
}

#[test]
fn says_that_the_server_is_gone_and_what_it_was() {
    let mut model = model(&[fixture()]);
    model.hear(Err(SnapshotError::NotTransom(address(), "not JSON")));
    has(
        &screen(&model, 80, 24),
        &["NO ANSWER", "is no admin address of Transom", "BUCKETS"],
    );
    model.hear(Ok(snapshot(&fixture())));
    assert!(!screen(&model, 80, 24).contains("NO ANSWER"));
}

#[test]
fn a_route_cannot_write_on_the_terminal() {
    let mut hostile = fixture();
    hostile["application"]["culprits"][0]["route"] = json!("/\u{1b}[2J\n");
    let text = screen(&model(&[hostile]), 80, 24);
    assert!(!text.contains('\u{1b}'), "{text:?}");
    has(&text, &["/\u{fffd}[2J\u{fffd}"]);
}

#[test]
fn a_picture_has_all_panes() {
    let text = picture(&mut model(&[fixture()]), 120).expect("it is only memory");
    has(
        &text,
        &[
            "BUCKETS",
            "EXHAUSTED",
            "ROUTES",
            "(no route)",
            "EQUATION",
            "287,531,008",
            "1,024,000        10,368       348,096 --bucket-size",
        ],
    );
    assert!(
        text.lines().all(|line| line.chars().count() <= 120),
        "{text}"
    );
    assert!(
        !text.contains('\u{1b}') && !text.contains("q quit"),
        "{text}"
    );
}

#[test]
fn errors_name_the_version() {
    let mut other = fixture();
    other["version"] = json!("7.0.0");
    other["application"]["cells"] = json!("gone");
    let error = snapshot::parse(&address(), &other.to_string())
        .unwrap_err()
        .to_string();
    has(
        &error,
        &[
            "at 127.0.0.1:9180 is Transom 7.0.0 and this is 0.",
            "use the `transom`",
        ],
    );
    for wrong in ["ok", "{}", "[]"] {
        let error = snapshot::parse(&address(), wrong).unwrap_err().to_string();
        has(&error, &["is no admin address of Transom"]);
    }
}

#[test]
fn intervals() {
    assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(interval("2s"), Ok(Duration::from_secs(2)));
    for wrong in ["", "5", "0ms", "49ms", "2h", "-1s"] {
        assert!(interval(wrong).is_err(), "{wrong}");
    }
}
