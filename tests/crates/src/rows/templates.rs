//! Templates: one engine that reads them at run time, one that compiles them.

use crate::listing::{Rows, number, text};
use askama::Template;
use minijinja::{Environment, context};
use std::sync::LazyLock;
use transom::{Failure, Request, Response};

const PAGE: &str = "<h1>Order {{ n }}</h1>
<ul>{% for item in items %}<li>{{ item }}</li>{% endfor %}</ul>";

const ANSWER: &str = "<h1>Order {n}</h1>
<ul><li>tea</li><li>salt &amp; pepper</li></ul>";

const ITEMS: [&str; 2] = ["tea", "salt & pepper"];

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment
        .add_template("page.html", PAGE)
        .expect("it is well-formed");
    environment
});

pub fn add(rows: &mut Rows) {
    rows.get("/minijinja", "minijinja: a static `Environment`", minijinja)
        .answers(|| text(ANSWER));
    rows.get("/askama", "askama: a derived template", askama)
        .answers(|| text(&ANSWER.replace("&amp;", "&#38;")));
}

fn minijinja(request: &Request) -> Result<Response<'_>, Failure> {
    let n = number(request)?;
    let template = ENVIRONMENT.get_template("page.html")?;
    Ok(Response::html(
        template.render(context! { n, items => ITEMS })?,
    ))
}

#[derive(Template)]
#[template(
    source = "<h1>Order {{ n }}</h1>\n<ul>{% for item in items %}<li>{{ item }}</li>{% endfor %}</ul>",
    ext = "html"
)]
struct Page<'p> {
    n: u64,
    items: &'p [&'p str],
}

fn askama(request: &Request) -> Result<Response<'_>, Failure> {
    let n = number(request)?;
    let page = Page { n, items: &ITEMS };
    Ok(Response::html(page.render()?))
}
