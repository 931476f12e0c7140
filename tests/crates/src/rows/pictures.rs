//! Pictures: drawn, scaled, encoded. What a handler must answer is made by the same code outside of a
//! request.

use crate::listing::{Rows, text};
use image::{DynamicImage, ImageError, ImageFormat, ImageReader, Limits, Rgb, RgbImage};
use rows::{Answer, Body};
use std::io::Cursor;
use transom::{Failure, Request, Response};

pub fn add(rows: &mut Rows) {
    rows.get("/png", "png: `Encoder`, `Decoder`", png)
        .flags("--bucket-size 4MiB")
        .answers(|| text("64 × 64, 8128 is the sum of a line"));
    rows.get("/image", "image: a thumbnail as PNG", |_: &Request| {
        Ok::<_, Failure>(Response::bytes("image/png", thumbnail()?))
    })
    .flags("--bucket-size 4MiB")
    .answers(|| Answer::Bytes(thumbnail().expect("memory is enough")));
    of_clients(rows);
}

/// Pictures that clients send, with the limits of docs/crates.md: what fits is decoded, and of what does not
/// no request is lost.
fn of_clients(rows: &mut Rows) {
    const TOO_LARGE: &str = "the picture is too large\n";
    let mut refused = |path, uses, picture| {
        rows.post(path, uses, picture, decoded)
            .status(413)
            .answers(|| text(TOO_LARGE));
    };
    refused(
        "/image/progressive",
        "image: a progressive JPEG, 560 × 540",
        || Body::Bytes(include_bytes!("pictures/progressive.jpg").to_vec()),
    );
    refused(
        "/image/wide",
        "image: a JPEG of one line, 65500 × 1",
        || Body::Bytes(include_bytes!("pictures/wide.jpg").to_vec()),
    );
    refused(
        "/image/tall",
        "image: a JPEG of one column, 1 × 65500",
        || Body::Bytes(include_bytes!("pictures/tall.jpg").to_vec()),
    );
    rows.post(
        "/image/largest",
        "image: the largest progressive JPEG that fits, 350 × 350",
        || Body::Bytes(include_bytes!("pictures/largest.jpg").to_vec()),
        decoded,
    )
    .answers(|| text("350 × 350"));
    // Four components, each with sampling factors of 4 × 4: nothing makes the decoder take more.
    rows.post(
        "/image/samples",
        "image: as large, CMYK",
        || Body::Bytes(include_bytes!("pictures/samples.jpg").to_vec()),
        decoded,
    )
    .answers(|| text("350 × 350"));
}

/// The recipe of docs/crates.md, "Pictures".
fn decoded(request: &Request) -> Result<String, Failure> {
    let mut reader = ImageReader::new(Cursor::new(request.body())).with_guessed_format()?;
    let free = request
        .memory()
        .free
        .saturating_sub(2 * request.body().len()) as u64;
    let share = if reader.format() == Some(ImageFormat::Png) {
        2
    } else {
        5
    };
    let mut limits = Limits::default();
    limits.max_alloc = Some(free / share);
    limits.max_image_width = u32::try_from(free / 4096).ok();
    limits.max_image_height = limits.max_image_width;
    reader.limits(limits);
    let picture = reader.decode().map_err(|error| match error {
        ImageError::Limits(_) => Failure::content_too_large("the picture is too large"),
        error => Failure::bad_request(error.to_string()),
    })?;
    Ok(format!("{} × {}", picture.width(), picture.height()))
}

fn png(_: &Request) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 64, 64);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    let pixels: Vec<u8> = (0..64 * 64).map(|at| (at % 64) as u8 * 4 + 1).collect();
    writer.write_image_data(&pixels)?;
    writer.finish()?;

    let mut reader = png::Decoder::new(Cursor::new(&bytes)).read_info()?;
    let mut read = vec![
        0;
        reader
            .output_buffer_size()
            .ok_or_else(|| Failure::internal("too large"))?
    ];
    let info = reader.next_frame(&mut read)?;
    let sum: u32 = read[..64].iter().map(|&pixel| u32::from(pixel)).sum();
    Ok(format!(
        "{} × {}, {sum} is the sum of a line",
        info.width, info.height
    ))
}

fn thumbnail() -> image::ImageResult<Vec<u8>> {
    let picture = RgbImage::from_fn(320, 240, |x, y| Rgb([x as u8, y as u8, (x * y) as u8]));
    let small = DynamicImage::from(picture).thumbnail(64, 64);
    let mut png = Cursor::new(Vec::new());
    small.write_to(&mut png, ImageFormat::Png)?;
    Ok(png.into_inner())
}
