//! Pictures: drawn, scaled, encoded. What a handler must answer is made by the same code outside of a
//! request.

use crate::listing::{Rows, text};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use rows::Answer;
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
