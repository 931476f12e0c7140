//! Which handler answers, and what may be a handler.

mod pure_support;

use std::io;

use bumpalo::Bump;
use pure_support::{frame, head, with_bytes, with_request};
use transom_platform::{
    Body, Failure, IntoResponse, Request, Response, Router, RouterError, Routes, Status, handler,
    streaming,
};

/// Status, header block and body of an answer.
fn parts(response: Response<'_>) -> (u16, String, String) {
    let block = String::from_utf8(response.fields().concat()).expect("text");
    let status = response.status().code();
    let body = match response.into_body() {
        Body::Borrowed(bytes) => bytes.to_vec(),
        Body::Owned(bytes) => bytes,
        _ => Vec::new(),
    };
    (status, block, String::from_utf8(body).expect("text"))
}

fn ask(routes: &Routes, line: &str) -> (u16, String, String) {
    with_request(&head(line), b"", |request| parts(routes.dispatch(request)))
}

fn answer(routes: &Routes, line: &str) -> (u16, String) {
    let (status, _, body) = ask(routes, line);
    (status, body)
}

fn allow(routes: &Routes, line: &str) -> (u16, String) {
    let (status, block, _) = ask(routes, line);
    let allow = block.lines().find_map(|line| line.strip_prefix("Allow: "));
    (status, allow.expect("an Allow field").to_owned())
}

fn path(request: &Request) -> Response<'_> {
    Response::text(request.path())
}

fn route(request: &Request) -> Response<'_> {
    Response::text(request.route().unwrap_or("none"))
}

fn failing(request: &Request) -> Result<Response<'_>, Failure> {
    let id: u64 = request.param_as("id")?;
    Ok(Response::text(format!("user {id}")))
}

#[test]
fn every_form_of_handler_is_taken() {
    fn text(_: &Request) -> &'static str {
        "static"
    }
    fn borrowed(request: &Request) -> &str {
        request.path()
    }
    fn owned(request: &Request) -> String {
        request.path().to_owned()
    }
    fn nothing(_: &Request) {}
    fn pair(request: &Request) -> (u16, &str) {
        (418, request.path())
    }
    fn io_error(_: &Request) -> Result<Response<'_>, io::Error> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn question(_: &Request) -> Result<(), Failure> {
        Ok(Err(io::Error::other("disk"))?)
    }
    // An application's own error, which chooses its own answer.
    struct Teapot;
    impl<'r> IntoResponse<'r> for Teapot {
        fn into_response(self) -> Response<'r> {
            Response::empty(418)
        }
    }
    fn own_error(_: &Request) -> Result<Response<'_>, Teapot> {
        Err(Teapot)
    }
    impl<'r> IntoResponse<'r> for IoFailure {
        fn into_response(self) -> Response<'r> {
            Response::internal_error(self.0.to_string())
        }
    }
    struct IoFailure(io::Error);

    let captured = String::from("captured");
    let routes = Router::new()
        .get("/fn", path)
        .get("/text", text)
        .get("/borrowed", borrowed)
        .get("/owned", owned)
        .get("/nothing", nothing)
        .get("/pair", pair)
        .get("/question", question)
        .get("/own-error", own_error)
        .get("/mapped", |request: &Request| {
            io_error(request).map(drop).map_err(IoFailure)
        })
        .get("/closure", |request: &Request| {
            Response::text(request.path().to_owned())
        })
        .get("/closure/{id}", |request: &Request| {
            Response::text(request.param("id").unwrap_or("").to_owned())
        })
        .get("/closure-text", |_: &Request| "text")
        .get("/closure-status", |_: &Request| Status::GONE)
        .get(
            "/closure-result",
            |request: &Request| -> Result<String, Failure> {
                Ok(request
                    .query("q")
                    .ok_or(Failure::bad_request("say ?q="))?
                    .to_owned())
            },
        )
        .get("/captured", move |_: &Request| captured.clone())
        .get("/lent", handler(|request| Response::text(request.path())))
        .get("/json", |_: &Request| serde_json::json!({"a": 1}))
        .build()
        .expect("routes");

    for (target, status, body) in [
        ("/fn", 200, "/fn"),
        ("/text", 200, "static"),
        ("/borrowed", 200, "/borrowed"),
        ("/owned", 200, "/owned"),
        ("/nothing", 204, ""),
        ("/pair", 418, "/pair"),
        ("/question", 500, "Internal Server Error\n"),
        ("/own-error", 418, ""),
        ("/mapped", 500, "Internal Server Error\n"),
        ("/closure", 200, "/closure"),
        ("/closure/7", 200, "7"),
        ("/closure-text", 200, "text"),
        ("/closure-status", 410, ""),
        ("/closure-result", 400, "say ?q=\n"),
        ("/closure-result?q=x", 200, "x"),
        ("/captured", 200, "captured"),
        ("/lent", 200, "/lent"),
        ("/json", 200, "{\"a\":1}"),
    ] {
        assert_eq!(
            answer(&routes, &format!("GET {target}")),
            (status, body.to_owned()),
            "{target}"
        );
    }
}

#[test]
fn a_path_without_a_route_gets_404_or_the_fallback() {
    let routes = Router::new().get("/a", path).build().expect("routes");
    for target in ["/", "/b", "/a/", "/a/b", "/A"] {
        assert_eq!(
            answer(&routes, &format!("GET {target}")),
            (404, "Not Found\n".to_owned()),
            "{target}"
        );
    }
    let routes = Router::new()
        .get("/a", path)
        .fallback(route)
        .build()
        .expect("routes");
    assert_eq!(answer(&routes, "POST /b"), (200, "none".to_owned()));
    assert_eq!(ask(&routes, "POST /a").0, 405);
}

#[test]
fn a_path_with_a_route_for_other_methods_gets_405_and_learns_them() {
    let routes = Router::new()
        .get("/a", path)
        .post("/a", path)
        .delete("/b", path)
        .put("/b", path)
        .patch("/b", path)
        .build()
        .expect("routes");
    assert_eq!(
        allow(&routes, "PUT /a"),
        (405, "GET, POST, HEAD, OPTIONS".to_owned())
    );
    assert_eq!(
        allow(&routes, "GET /b"),
        (405, "DELETE, PUT, PATCH, OPTIONS".to_owned())
    );
    assert_eq!(
        allow(&routes, "HEAD /b"),
        (405, "DELETE, PUT, PATCH, OPTIONS".to_owned())
    );
}

#[test]
fn options_of_a_known_path_names_its_methods() {
    let routes = Router::new()
        .get("/a", path)
        .get("/own", path)
        .method("OPTIONS", "/own", |_: &Request| "own")
        .any("/any", path)
        .build()
        .expect("routes");
    assert_eq!(
        allow(&routes, "OPTIONS /a"),
        (204, "GET, HEAD, OPTIONS".to_owned())
    );
    assert_eq!(
        ask(&routes, "OPTIONS /a").1,
        "Allow: GET, HEAD, OPTIONS\r\n"
    );
    assert_eq!(answer(&routes, "OPTIONS /own"), (200, "own".to_owned()));
    assert_eq!(
        allow(&routes, "POST /own"),
        (405, "GET, OPTIONS, HEAD".to_owned())
    );
    assert_eq!(answer(&routes, "OPTIONS /any"), (200, "/any".to_owned()));
    assert_eq!(ask(&routes, "OPTIONS /nowhere").0, 404);
}

#[test]
fn head_goes_to_get_unless_it_has_its_own() {
    let routes = Router::new()
        .get("/a", path)
        .get("/own", path)
        .method("HEAD", "/own", |_: &Request| Status::NO_CONTENT)
        .post("/post", path)
        .any("/post", |_: &Request| "any")
        .build()
        .expect("routes");
    assert_eq!(answer(&routes, "HEAD /a"), answer(&routes, "GET /a"));
    assert_eq!(ask(&routes, "HEAD /own").0, 204);
    assert_eq!(answer(&routes, "HEAD /post"), (200, "any".to_owned()));
    assert_eq!(answer(&routes, "POST /post"), (200, "/post".to_owned()));
}

#[test]
fn a_method_that_no_route_has_gets_501_and_one_that_some_route_has_gets_405() {
    let routes = Router::new()
        .get("/a", path)
        .method("PURGE", "/cache", path)
        .build()
        .expect("routes");
    for target in ["/a", "/nowhere"] {
        assert_eq!(ask(&routes, &format!("BREW {target}")).0, 501);
        assert_eq!(ask(&routes, &format!("get {target}")).0, 501);
    }
    assert_eq!(answer(&routes, "PURGE /cache"), (200, "/cache".to_owned()));
    assert_eq!(allow(&routes, "PURGE /a").0, 405);
    assert_eq!(ask(&routes, "PURGE /nowhere").0, 404);
    assert!(routes.knows("PURGE") && routes.knows("OPTIONS") && !routes.knows("BREW"));
    let open = Router::new()
        .fallback(path)
        .any("/any", path)
        .build()
        .expect("routes");
    assert_eq!(ask(&open, "BREW /").0, 501);
    assert_eq!(ask(&open, "BREW /any").0, 200);
}

#[test]
fn parameters_are_the_parts_of_the_decoded_path() {
    fn all(request: &Request) -> String {
        let get = |name| request.param(name).unwrap_or("-");
        format!(
            "{} {} {} {}",
            request.route().unwrap_or("-"),
            get("id"),
            get("file"),
            get("rest")
        )
    }
    let routes = Router::new()
        .get("/user/{id}", all)
        .get("/user/me", all)
        .get("/user/{id}/{file}", all)
        .get("/img/{file}.png", all)
        .get("/tree/{*rest}", all)
        .build()
        .expect("routes");
    for (target, expected) in [
        ("/user/7", "/user/{id} 7 - -"),
        ("/user/me", "/user/me - - -"),
        ("/user/7/x", "/user/{id}/{file} 7 x -"),
        ("/img/cat.png", "/img/{file}.png - cat -"),
        ("/tree/a/b/c", "/tree/{*rest} - - a/b/c"),
    ] {
        assert_eq!(
            answer(&routes, &format!("GET {target}")),
            (200, expected.to_owned()),
            "{target}"
        );
    }
    let bytes = frame(
        &head("GET /user/%C3%A9%20x"),
        Some("/user/\u{e9} x"),
        b"",
        false,
    );
    let decoded = with_bytes(&bytes, &Bump::new(), None, |request| {
        parts(routes.dispatch(request))
    });
    assert_eq!(decoded.2, "/user/{id} \u{e9} x - -");
}

#[test]
fn a_route_may_have_more_parameters_than_fit_inline() {
    let routes = Router::new()
        .get("/{a}/{b}/{c}/{d}/{e}", |request: &Request| {
            ["a", "b", "c", "d", "e"]
                .map(|name| request.param(name).unwrap_or("-"))
                .concat()
        })
        .build()
        .expect("routes");
    assert_eq!(answer(&routes, "GET /1/2/3/4/5"), (200, "12345".to_owned()));
}

#[test]
fn a_parameter_that_cannot_name_anything_gets_404_and_one_that_is_not_there_500() {
    let routes = Router::new()
        .get("/user/{id}", failing)
        .get("/name/{name}", failing)
        .build()
        .expect("routes");
    assert_eq!(answer(&routes, "GET /user/7"), (200, "user 7".to_owned()));
    assert_eq!(
        answer(&routes, "GET /user/seven"),
        (404, "Not Found\n".to_owned())
    );
    assert_eq!(
        answer(&routes, "GET /name/7"),
        (500, "Internal Server Error\n".to_owned())
    );
}

#[test]
fn mistakes_in_patterns_are_reported_with_the_pattern() {
    let error = |router: Router| router.build().err().expect("a mistake");
    let sentence = |router: Router| error(router).to_string();
    assert_eq!(
        error(Router::new().get("a", path)),
        RouterError::NoSlash {
            pattern: "a".into()
        }
    );
    assert_eq!(
        error(Router::new().get("", path)),
        RouterError::NoSlash {
            pattern: String::new()
        }
    );
    assert_eq!(
        error(Router::new().get("/u/{id}", path).get("/u/{name}", path)),
        RouterError::Contradiction {
            pattern: "/u/{name}".into(),
            with: "/u/{id}".into()
        },
    );
    assert_eq!(
        error(Router::new().get("/a", path).get("/a", path)),
        RouterError::Duplicate {
            method: "GET".into(),
            pattern: "/a".into()
        },
    );
    assert_eq!(
        error(Router::new().any("/a", path).any("/a", path)),
        RouterError::Duplicate {
            method: "ANY".into(),
            pattern: "/a".into()
        },
    );
    for pattern in ["/{", "/{}", "/{*x}/y", "/{a}{b}"] {
        let error = error(Router::new().get(pattern, path));
        assert!(matches!(error, RouterError::Malformed { .. }), "{error:?}");
        assert!(error.to_string().contains(pattern), "{error}");
    }
    for method in ["", "G T", "get", "TRACE", "CONNECT", &"X".repeat(33)] {
        let error = error(Router::new().method(method, "/a", path));
        assert!(
            matches!(error, RouterError::Method { .. }),
            "{method:?}: {error:?}"
        );
    }
    let first = sentence(
        Router::new()
            .get("one", path)
            .get("two", path)
            .get("/fine", path),
    );
    assert!(first.contains("\"one\""), "{first}");
}

#[test]
fn patterns_are_listed_once_each() {
    let routes = Router::new()
        .get("/a", path)
        .post("/a", path)
        .get("/b/{c}", path)
        .build()
        .expect("routes");
    assert_eq!(routes.patterns().collect::<Vec<_>>(), ["/a", "/b/{c}"]);
}

#[test]
fn a_streamed_body_is_collected_unless_the_handler_reads_it_itself() {
    fn length(request: &Request) -> String {
        format!("{} {}", request.body().len(), request.is_streamed())
    }
    fn count(request: &Request) -> Result<String, Failure> {
        let read = io::copy(&mut request.body_reader(), &mut io::sink())?;
        Ok(format!(
            "{} {} {read}",
            request.body().len(),
            request.is_streamed()
        ))
    }
    let routes = Router::new()
        .post("/whole", length)
        .post("/bits", streaming(count))
        .build()
        .expect("routes");
    let body = vec![b'x'; 100_000];
    let ask = |target: &str, length: Option<u64>, arena: &Bump, mut source: &[u8]| {
        let mut bytes = frame(&head(&format!("POST {target}")), None, &body[..100], true);
        if let Some(length) = length {
            bytes[24..32].copy_from_slice(&length.to_le_bytes());
        }
        with_bytes(&bytes, arena, Some(&mut source), |request| {
            let (status, _, body) = parts(routes.dispatch(request));
            (status, body)
        })
    };
    for length in [None, Some(100_000)] {
        assert_eq!(
            ask("/whole", length, &Bump::new(), &body),
            (200, "100000 false".to_owned())
        );
        assert_eq!(
            ask("/bits", length, &Bump::new(), &body),
            (200, "0 true 100000".to_owned())
        );
        // Neither is for the `&Bump`. (`tests/tests/promise.rs` tries that the bucket bounds it.)
        let small = Bump::with_capacity(8192);
        small.set_allocation_limit(Some(small.allocated_bytes()));
        assert_eq!(ask("/whole", length, &small, &body).0, 200);
        assert_eq!(ask("/bits", length, &small, &body).0, 200);
    }
    assert_eq!(
        ask("/whole", Some(100_001), &Bump::new(), &body).0,
        400,
        "the client left early"
    );
    assert_eq!(
        ask("/whole", Some(u64::MAX - 1), &Bump::new(), &body).0,
        413
    );
}
