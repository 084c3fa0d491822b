//! The page's other ways to look: samples, collections with filters, parts and examples, the map, models side by side.

use serde_json::{Value, json};

use crate::common::*;
use crate::page::{PHOTO, Scene, wait_for_file};

/// The ids of what was found, in order.
const FOUND: &str = "[...document.querySelectorAll('#found .open')].map((b) => b.title.split(':')[0])";

/// Waits for as many results.
fn results(scene: &Scene, count: usize) -> Value {
    let there = format!("$('busy').hidden && document.querySelectorAll('#found .hit').length === {count}");
    scene.browser.until(&there);
    scene.browser.eval(FOUND)
}

/// The ids that the printed command finds.
fn told(scene: &Scene) -> Value {
    let answer: Value = serde_json::from_slice(&scene.curl("").stdout).unwrap();
    answer["hits"].as_array().unwrap().iter().map(|hit| hit["id"].clone()).collect()
}

/// A server with six points in a collection `shop`, and the page with that chosen; `flags` and a folder for the data.
fn shop(flags: &[&str], data: &std::path::Path) -> Option<Scene> {
    let all: Vec<&str> = flags.iter().copied().chain(["--data", data.to_str().unwrap()]).collect();
    let scene = Scene::start(&all)?;
    let made = scene.server.send("PUT", "/v1/collections/shop", "application/json", b"{}");
    assert!(made.starts_with("HTTP/1.1 201"), "{made}");
    let colours = [[240, 20, 20], [200, 30, 40], [250, 60, 20], [20, 20, 240], [10, 60, 200], [60, 10, 220]];
    let point = |(i, colour): (usize, [u8; 3])| {
        let (image, kind) = (base64(&png(60, 40, colour)), if i < 3 { "red" } else { "blue" });
        let thumbnail = format!("data:image/png;base64,{image}");
        json!({ "id": format!("{kind}/{i}"), "image": image, "payload": { "kind": kind, "price": 10 * i, "thumbnail": thumbnail } })
    };
    let points = json!({ "points": colours.into_iter().enumerate().map(point).collect::<Vec<_>>() });
    let path = "/v1/collections/shop/points";
    let filled = scene.server.send("POST", path, "application/json", points.to_string().as_bytes());
    assert!(filled.starts_with("HTTP/1.1 200"), "{filled}");
    scene.open(&scene.url());
    scene.browser.until("server.gallery && $('source').options.length === 2");
    choose(&scene, "source", "/shop");
    scene.browser.until("!$('filters').hidden && $('filter-key').options.length > 1");
    Some(scene)
}

fn choose(scene: &Scene, id: &str, value: &str) {
    let how =
        format!("$('{id}').value = {}; $('{id}').dispatchEvent(new Event('change')); true", json!(value));
    scene.browser.eval(&how);
}

fn filter(scene: &Scene, key: &str, op: &str, value: &str) {
    choose(scene, "filter-key", key);
    choose(scene, "filter-op", op);
    scene
        .browser
        .eval(&format!("$('filter-value').value = {}; $('filters').requestSubmit(); true", json!(value)));
}

#[test]
fn an_empty_page_offers_pictures_to_begin_with() {
    let Some(scene) = Scene::start(&[]) else { return };
    let browser = &scene.browser;
    browser.until("!$('try').hidden && $('tries').children.length === server.gallery.images");
    browser.until("[...document.querySelectorAll('#tries img')].every((i) => i.complete && i.naturalWidth)");
    browser.eval("document.querySelector('#tries .open').click()");
    browser.until("pictures.length === 1 && shown === pictures[0]");
    scene.answered();
    assert_eq!(browser.eval("$('try').hidden"), true);
    // All of the gallery, by number.
    browser.eval("location.hash = 'browse'");
    browser.until("$('shelf').children.length === server.gallery.images");
    assert_eq!(browser.text("$('shelf-title').textContent"), "2 pictures in the gallery");
    // Where there is no collection, the map says so.
    browser.eval("location.hash = 'map'");
    browser.until("!$('map-note').hidden && $('map-card').hidden");
    // Keys lead from view to view, and are listed.
    let press = |key: &str| {
        let event = format!(
            "new KeyboardEvent('keydown', {{ key: {}, bubbles: true, cancelable: true }})",
            json!(key)
        );
        browser.eval(&format!("document.body.dispatchEvent({event})"));
    };
    press("1");
    browser.until("!$('view-search').hidden && $('view-map').hidden");
    press("m");
    assert_eq!(browser.eval("document.querySelector('[name=view]:checked').value"), "mask");
    press("?");
    assert_eq!(browser.eval("$('help').open"), true);
    browser.assert_clean();
}

#[test]
fn others_are_others_every_time() {
    let data = tempfile::tempdir().unwrap();
    let Some(scene) = shop(&[], data.path()) else { return };
    let browser = &scene.browser;
    browser.until("$('tries').children.length === 6");
    const FIRST: &str = "document.querySelector('#tries .open').title";
    for _ in 0..2 {
        let before = browser.text(FIRST);
        browser.eval("$('try-more').click()");
        browser.until(&format!("{FIRST} !== {}", json!(before)));
    }
    browser.assert_clean();
}

#[test]
fn a_page_of_the_shelf_that_failed_is_asked_for_again() {
    let Some(scene) = Scene::start(&[]) else { return };
    let browser = &scene.browser;
    browser.eval("window.whole = fetch; window.fetch = async () => new Response('{'); true");
    browser.eval("location.hash = 'browse'");
    browser.until("!$('error').hidden && !$('shelf-more').hidden");
    assert!(browser.text("$('error').innerText").contains("cannot be read"));
    browser.eval("window.fetch = whole; $('shelf-more').click()");
    browser.until("$('shelf').children.length === server.gallery.images");
    assert_eq!(browser.eval("[$('error').hidden, $('shelf-more').hidden]"), json!([true, true]));
    browser.assert_clean();
}

#[test]
fn a_condition_without_a_value_follows_one_that_lacks_it() {
    let data = tempfile::tempdir().unwrap();
    let Some(scene) = shop(&[], data.path()) else { return };
    let browser = &scene.browser;
    filter(&scene, "kind", "is", "");
    assert_eq!(browser.eval("[$('filter-value').validity.customError, filters]"), json!([true, []]));
    filter(&scene, "kind", "has", "");
    assert_eq!(browser.eval("filters"), json!([{ "key": "kind", "op": "has", "value": null }]));
    browser.assert_clean();
}

#[test]
fn a_slow_search_never_replaces_a_newer_one() {
    let data = tempfile::tempdir().unwrap();
    let Some(scene) = shop(&[], data.path()) else { return };
    let browser = &scene.browser;
    browser.until("$('tries').children.length === 6");
    // The first search has its answer when the test says so.
    let hold = "window.whole = fetch; window.held = null; window.fetch = (path, options) => \
                (!held && path.includes('/search') ? new Promise((go) => { held = () => go(whole(path, options)); }) : whole(path, options)); true";
    browser.eval(hold);
    let late = "held(); await new Promise((done) => setTimeout(done, 300))";
    browser.eval("document.querySelectorAll('#tries .sign')[0].click(); $('by-examples').click()");
    browser.until("held");
    browser.eval("document.querySelectorAll('#tries .sign')[3].click()");
    let newer = results(&scene, 4);
    browser.eval(late);
    assert_eq!(results(&scene, 4), newer);

    // One by a picture does not replace one by examples either.
    browser.eval("held = null; true");
    browser.choose("#file", &[scene.path(PHOTO)]);
    browser.until("held && map");
    browser.eval("$('by-examples').click()");
    let newer = results(&scene, 4);
    browser.eval(late);
    assert_eq!(results(&scene, 4), newer);
    browser.assert_clean();
}

#[test]
fn the_part_that_is_kept_is_that_of_the_request_on_show() {
    let Some(scene) = Scene::start(&[]) else { return };
    let browser = &scene.browser;
    scene.choose(&[PHOTO]);
    browser.save_into(scene.dir.path());
    browser.eval("mark([84, 56, 126, 112])");
    browser.until("$('busy').hidden && $('near-title').textContent.includes('marked part')");
    browser.eval("mark(null)");
    scene.answered();
    let index = browser.eval("requests.findIndex((r) => r.part)").as_u64().unwrap();
    choose(&scene, "made", &index.to_string());
    browser.eval("document.querySelector('[data-save=part]').click()");
    let part = image::load_from_memory(&wait_for_file(&scene.path("my photo's-box.png"))).unwrap();
    assert_eq!((part.width(), part.height()), (126, 112));
    browser.assert_clean();
}

#[test]
fn collections_are_searched_by_part_by_point_by_examples_and_with_filters() {
    let data = tempfile::tempdir().unwrap();
    let Some(scene) = shop(&[], data.path()) else { return };
    let browser = &scene.browser;
    scene.choose(&[PHOTO]);
    assert_eq!(results(&scene, 6), told(&scene));
    browser.until("[...document.querySelectorAll('#found img')].every((i) => i.complete && i.naturalWidth)");
    assert!(
        !browser.text("document.body.innerText").contains("data:image"),
        "pictures are shown as pictures"
    );
    // Bars begin where any two pictures are, not at 0.
    browser.until("$('scale').textContent.startsWith('Bars run from')");
    let low = browser.text("$('found').style.getPropertyValue('--low')").parse::<f64>().unwrap();
    assert!(low > -1.0 && low < 1.0, "{low}");

    // A part, drawn with the mouse.
    let [left, top, width, height] = browser.place("#canvas");
    browser.drag((left + width * 0.2, top + height * 0.2), (left + width * 0.5, top + height * 0.6), false);
    browser.until("shown.box && $('busy').hidden && $('near-title').textContent.includes('marked part')");
    let off = "shown.box.every((v, i) => Math.abs(v - [84, 56, 126, 112][i]) < 3)";
    assert_eq!(browser.eval(off), true, "{}", browser.eval("shown.box"));
    let name = "my photo's-box.png";
    browser.save_into(scene.dir.path());
    browser.eval("document.querySelector('[data-save=part]').click()");
    browser.until(&format!("$('said').textContent === {} + ' is saved'", json!(name)));
    wait_for_file(&scene.path(name));
    assert_eq!(results(&scene, 6), told(&scene), "the command sends the part");

    // With a filter, the picture travels within JSON, and so it does in the commands.
    filter(&scene, "kind", "is", "red");
    let red = results(&scene, 3);
    assert_eq!(red, told(&scene));
    assert!(String::from_utf8(scene.python("").stdout).unwrap().contains(red[0].as_str().unwrap()));
    filter(&scene, "price", "gte", "10");
    assert_eq!(results(&scene, 2), told(&scene));
    browser.eval("location.hash = 'browse'");
    browser.until("$('shelf').children.length === 2");
    browser.until("$('shelf-title').textContent === '2 of 6 points in shop'");
    browser.screenshot("browse");
    browser.eval("location.hash = 'search'; document.querySelectorAll('#chips button')[1].click()");
    browser.eval("document.querySelector('#chips button').click()");
    let all = results(&scene, 6);

    // A card searches by its point, which is not encoded again.
    browser.eval("document.querySelector('#found .open').click()");
    let others = results(&scene, 5);
    assert_eq!(browser.eval("[shown.point.id, shown.answer]"), json!([all[0], null]));
    let ids: Vec<Value> =
        told(&scene).as_array().unwrap().iter().filter(|id| **id != all[0]).cloned().collect();
    assert_eq!((others, browser.text("$('curl').textContent").contains("\"id\"")), (json!(ids), true));
    browser.screenshot("point");

    // More like this point, less like that one: neither is found itself.
    browser.eval("$('example').click(); document.querySelectorAll('#found .sign')[1].click()");
    assert_eq!(browser.eval("examples.map((e) => e.sign)"), json!([1, -1]));
    browser.eval("$('by-examples').click()");
    browser.until("$('near-title').textContent === 'Nearest pictures to the examples'");
    let found = results(&scene, 4);
    assert!(found.as_array().unwrap().iter().all(|id| *id != all[0] && *id != ids[0]), "{found}");
    browser.assert_clean();
}

#[test]
fn a_map_shows_every_point() {
    let data = tempfile::tempdir().unwrap();
    let Some(scene) = shop(&[], data.path()) else { return };
    let browser = &scene.browser;
    browser.eval("location.hash = 'map'");
    browser.until("!$('map-card').hidden && $('map-busy').hidden && $('legend').children.length === 2");
    assert!(browser.text("$('legend').innerText").contains("red (3)"));
    const DRAWN: &str = "(() => { const c = $('plot'), { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height); \
                         return data.filter((v, i) => i % 4 === 3 && v > 0).length; })()";
    browser.until(&format!("{DRAWN} >= 6"));
    // The address leads back here.
    assert_eq!(browser.text("location.hash"), "#map/shop");
    for layout in ["axes", "neighbours"] {
        choose(&scene, "layout", layout);
        let [left, top, width, height] = browser.place("#plot");
        browser.drag((left + 2.0, top + 2.0), (left + width - 2.0, top + height - 2.0), true);
        browser.until("$('map-near').children.length === 6");
        assert_eq!(browser.text("$('map-chosen').textContent"), "6 points selected");
    }
    browser.screenshot("map");
    // A minus makes the map smaller; with Ctrl it is the browser's.
    let goes_on = "[true, false].map((ctrlKey) => \
                   $('plot').dispatchEvent(new KeyboardEvent('keydown', { key: '-', ctrlKey, cancelable: true })))";
    assert_eq!(browser.eval(goes_on), json!([true, false]));
    browser.assert_clean();
}

#[test]
fn models_are_compared_side_by_side_and_masks_are_kept_for_coco() {
    let second = format!("border={}", fixture("tiny-border.onnx").display());
    let Some(scene) = Scene::start(&["--model", &second]) else { return };
    let browser = &scene.browser;
    scene.choose(&[PHOTO, "other.png"]);
    browser.eval("location.hash = 'models'");
    browser.until("$('columns').children.length === 2 && $('agree').textContent.includes('agree to')");
    let facts = browser.text("$('columns').innerText");
    assert!(facts.contains("border") && facts.contains("Foreground"), "{facts}");
    browser.screenshot("models");

    browser.eval("location.hash = 'search'");
    browser.save_into(scene.dir.path());
    browser.eval("document.querySelector('[data-save=coco]').click()");
    browser.until("$('said').textContent === 'masks.coco.json is saved'");
    let file = wait_for_file(&scene.path("masks.coco.json"));
    let kept: Value = serde_json::from_slice(&file).unwrap();
    let names: Vec<&Value> =
        kept["images"].as_array().unwrap().iter().map(|image| &image["file_name"]).collect();
    assert_eq!(names, [&json!(PHOTO), &json!("other.png")]);
    let first = &kept["annotations"][0];
    let share = browser.eval("pictures[0].answer.saliency.foreground_ratio").as_f64().unwrap();
    let seen =
        browser.eval("pictures[0].answer.saliency.crop.width * pictures[0].answer.saliency.crop.height");
    let (area, expected) = (first["area"].as_f64().unwrap(), share * seen.as_f64().unwrap());
    assert!((area - expected).abs() <= 0.02 * expected + 1.0, "{area} for {expected}");
    assert_eq!((&first["image_id"], &first["iscrowd"]), (&json!(1), &json!(0)));

    // They are there again after a file that cannot be shown.
    browser.choose("#file", &[scene.path("notes.txt")]);
    browser.until("!$('error').hidden && $('busy').hidden");
    browser.eval("location.hash = 'models'");
    browser.until("!$('models-note').hidden && !$('columns').children.length && !$('agree').textContent");
    browser.eval("location.hash = 'search'; document.querySelector('#strip button').click()");
    browser.until("shown === pictures[0]");
    scene.answered();
    browser.eval("location.hash = 'models'");
    browser.until("$('columns').children.length === 2 && $('agree').textContent.includes('agree to')");
    browser.assert_clean();
}

#[test]
fn a_mask_is_corrected_with_a_brush() {
    let Some(scene) = Scene::start(&[]) else { return };
    let browser = &scene.browser;
    scene.choose(&[PHOTO]);
    browser.save_into(scene.dir.path());
    let [left, top, width, height] = browser.place("#canvas");
    let stroke = |row: f64| {
        let at = |x: f64| (left + width * x, top + height * row);
        browser.drag(at(0.1), at(0.9), false);
    };
    browser.eval("$('edit').click()");
    assert_eq!(browser.eval("document.querySelector('[name=view]:checked').value"), "mask");
    let before = browser.text("$('canvas').toDataURL()");
    stroke(0.1);
    assert_ne!(browser.text("$('canvas').toDataURL()"), before, "the stroke is seen");
    browser.eval("$('erase').click()");
    stroke(0.5);
    stroke(0.8);
    browser.eval("$('undo').click()");
    assert_eq!(browser.eval("[shown.strokes.map((s) => s.erase), shown.box]"), json!([[false, true], null]));
    browser.screenshot("edited");

    // The mask that is kept has the one stroke, lacks the other, and is the one of COCO's file.
    browser.eval("document.querySelector('[data-save=mask]').click()");
    browser.until("$('said').textContent.endsWith('-mask.png is saved')");
    let bytes = wait_for_file(&scene.path("my photo's-mask.png"));
    let mask = image::load_from_memory(&bytes).unwrap().to_luma8();
    assert_eq!(mask.dimensions(), (420, 280));
    assert_eq!([28, 140].map(|y| mask.get_pixel(210, y).0[0]), [255, 0]);
    browser.eval("document.querySelector('[data-save=coco]').click()");
    browser.until("$('said').textContent.endsWith('.coco.json is saved')");
    let kept: Value = serde_json::from_slice(&wait_for_file(&scene.path("my photo's.coco.json"))).unwrap();
    let segmentation = &kept["annotations"][0]["segmentation"];
    assert_eq!(segmentation["size"], json!([280, 420]));
    // Run lengths go down the columns and begin with the background.
    let mut runs = Vec::new();
    for (i, count) in segmentation["counts"].as_array().unwrap().iter().enumerate() {
        runs.extend(std::iter::repeat_n(i % 2 == 1, count.as_u64().unwrap() as usize));
    }
    let columns: Vec<bool> = (0..420)
        .flat_map(|x| (0..280).map(move |y| (x, y)))
        .map(|(x, y)| mask.get_pixel(x, y).0[0] > 127)
        .collect();
    assert_eq!(runs, columns);
    let area = columns.iter().filter(|inside| **inside).count();
    assert_eq!(kept["annotations"][0]["area"], area);

    // A finger draws as long as one of the two buttons is pressed.
    let touch = |button: &str| {
        browser.eval(&format!("$('{button}').click()"));
        browser.text("getComputedStyle($('canvas')).touchAction")
    };
    assert_eq!(["arm", "edit", "arm"].map(touch), ["none", "none", "pan-y pinch-zoom"]);
    browser.assert_clean();
}
