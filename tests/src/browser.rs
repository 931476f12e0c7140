//! A headless Chromium, driven by the DevTools protocol: JSON over two pipes, so that no port is opened and
//! no other process can drive it.

use crate::Folder;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// How long anything may take in a browser. It starts a dozen threads and processes for a page, on a machine
/// that may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a browser may be called, where it is installed.
const NAMES: [&str; 5] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "chromium-headless-shell",
    "chrome-headless-shell",
];

/// A browser. It ends when it is dropped, and by itself when this process dies, because its pipe is closed
/// then.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    /// Messages that are no answers.
    events: Vec<Value>,
    last_id: u64,
    _profile: Folder,
}

/// How the page is looked at.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// CSS pixels.
    pub width: u32,
    /// CSS pixels.
    pub height: u32,
    /// What `prefers-color-scheme` says.
    pub dark: bool,
}

impl Browser {
    /// The program: `TRANSOM_TEST_CHROMIUM`, or what `PATH` has.
    #[must_use]
    pub fn find() -> Option<PathBuf> {
        if let Some(path) = std::env::var_os("TRANSOM_TEST_CHROMIUM") {
            return Some(path.into());
        }
        let path = std::env::var_os("PATH")?;
        let folders: Vec<_> = std::env::split_paths(&path).collect();
        let names = NAMES.iter();
        names
            .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
            .find(|file| file.is_file())
    }

    /// Starts the program with an empty profile of its own.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(program: &std::path::Path, name: &str) -> Self {
        let profile = Folder::new(name);
        let mut command = Command::new("sh");
        // Chromium reads commands from descriptor 3 and writes to 4.
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 1>&2"]);
        command.arg(program).args([
            "--headless=new",
            "--remote-debugging-pipe",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
        ]);
        // SAFETY: a plain system call.
        if unsafe { libc::geteuid() } == 0 {
            // Its sandbox cannot be set up by root. The only pages it sees are those of the test.
            command.arg("--no-sandbox");
        }
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("a shell can be started");
        let commands = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let (send, messages) = mpsc::channel();
        std::thread::spawn(move || {
            for message in answers.split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("Chromium writes JSON");
                if send.send(message).is_err() {
                    return;
                }
            }
        });
        Browser {
            child,
            commands,
            messages,
            events: Vec::new(),
            last_id: 0,
            _profile: profile,
        }
    }

    /// A page of its own, which has begun to load `url`.
    ///
    /// # Panics
    /// If the browser does not do as it is told.
    pub fn open(&mut self, url: &str, view: View) -> Page<'_> {
        let target = self.call(None, "Target.createTarget", json!({"url": "about:blank"}));
        let target = &target["targetId"];
        let attach = json!({"targetId": target, "flatten": true});
        let attached = self.call(None, "Target.attachToTarget", attach);
        let session = attached["sessionId"]
            .as_str()
            .expect("a session has a name")
            .to_owned();
        self.events.clear();
        let mut page = Page {
            browser: self,
            session,
        };
        for domain in [
            "Runtime.enable",
            "Log.enable",
            "Network.enable",
            "Page.enable",
        ] {
            page.call(domain, json!({}));
        }
        page.look(view);
        page.call("Page.navigate", json!({"url": url}));
        page
    }

    fn call(&mut self, session: Option<&str>, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let mut command = json!({"id": self.last_id, "method": method, "params": parameters});
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.commands
            .write_all(&bytes)
            .expect("the browser is there");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut message = self
                .messages
                .recv_timeout(left)
                .unwrap_or_else(|error| panic!("{method} is not answered by Chromium: {error}"));
            if message["id"] == self.last_id {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].take();
            }
            self.events.push(message);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self
            .commands
            .write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A page.
#[derive(Debug)]
pub struct Page<'b> {
    browser: &'b mut Browser,
    session: String,
}

impl Page<'_> {
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.browser.call(Some(&self.session), method, parameters)
    }

    /// Changes the size of the window and its colours.
    pub fn look(&mut self, view: View) {
        let size = json!({
            "width": view.width, "height": view.height, "deviceScaleFactor": 1, "mobile": false
        });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if view.dark { "dark" } else { "light" };
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.call("Emulation.setEmulatedMedia", json!({"features": [feature]}));
    }

    /// The value of an expression in the page.
    ///
    /// # Panics
    /// If it throws.
    pub fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", parameters);
        let thrown = &answer["exceptionDetails"];
        assert!(thrown.is_null(), "{expression}: {thrown}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true.
    ///
    /// # Panics
    /// If it does not become true: the page's text is in the message.
    #[track_caller]
    pub fn wait_for(&mut self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        // Before the page is loaded, the expression may throw.
        let guarded =
            format!("(() => {{ try {{ return !!({expression}) }} catch {{ return false }} }})()");
        while self.value(&guarded) != true {
            if Instant::now() > deadline {
                let text = self.value("document.body.innerText");
                panic!(
                    "{expression} does not become true; the page complains of {:?} and says:\n{}",
                    self.complaints(),
                    text.as_str().unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses a key that has no letter, `ArrowRight` for one.
    pub fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", json!({"type": kind, "key": key}));
        }
    }

    /// Everything that the page has asked for since it was opened.
    #[must_use]
    pub fn requested(&self) -> Vec<String> {
        let events = self.browser.events.iter();
        events
            .filter(|event| event["method"] == "Network.requestWillBeSent")
            .filter_map(|event| event["params"]["request"]["url"].as_str())
            .map(str::to_owned)
            .collect()
    }

    /// What a developer would find in the console: exceptions, errors, warnings, refused loads.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        const COMPLAINTS: [&str; 3] = [
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
        ];
        let events = self.browser.events.iter();
        events
            .filter(|event| COMPLAINTS.iter().any(|it| event["method"] == *it))
            .map(|event| event["params"].to_string())
            .collect()
    }
}
