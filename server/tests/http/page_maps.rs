//! The page's choices about maps, in a headless browser.

use serde_json::{Value, json};

use crate::common::*;
use crate::page::{PHOTO, Scene};

#[test]
fn shows_what_is_asked_of_the_map() {
    let second = format!("border={}", fixture("tiny-border.onnx").display());
    let Some(scene) = Scene::start(&["--model", &second]) else { return };
    let browser = &scene.browser;
    scene.choose(&[PHOTO]);
    let threshold = || browser.eval("[$('rule').textContent, Number($('threshold').value)]");
    assert_eq!(threshold(), json!(["\u{2212}0.6", -0.6]));

    browser.eval("document.querySelector('[name=window][value=whole]').click()");
    scene.answered();
    let crop = browser.eval("[shown.answer.saliency.crop.width, shown.answer.saliency.crop.height]");
    assert_eq!(crop, json!([420, 280]));
    assert!(!browser.text("$('list').innerText").contains("Confidence"));

    browser.eval("$('mirror').click()");
    scene.answered();
    let confidence = browser.eval("shown.answer.saliency.confidence").as_f64().unwrap();
    let facts = browser.text("$('list').innerText");
    assert!(facts.contains(&format!("Confidence\n{confidence:.2}")), "{facts}");

    // The refined mask is drawn by its own pixels.
    browser.eval("$('refine').click()");
    scene.answered();
    assert_eq!(browser.eval("[map.pixels.width, map.pixels.height]"), json!([256, 171]));
    assert_eq!(
        browser.eval("parts(map, foreground(map, drawn())).length === shown.answer.saliency.boxes.length"),
        true
    );
    let differs = "Math.abs(shown.answer.saliency.foreground_ratio - foreground(map, drawn()).filter(Boolean).length / map.pixels.cells.length)";
    assert!(browser.eval(differs).as_f64().unwrap() < 1e-6);
    let command = browser.text("$('curl').textContent");
    for part in ["window=whole", "mirror=true", "refine=true"] {
        assert!(command.contains(part), "{command}");
    }
    let told: Value = serde_json::from_slice(&scene.curl("").stdout).unwrap();
    let (told, shown) = (&told["results"][0]["saliency"], browser.eval("shown.answer.saliency"));
    assert_eq!((&told["mask"], &told["confidence"]), (&shown["mask"], &shown["confidence"]));
    browser.screenshot("maps");

    // A map that cannot be trusted says so, in writing and aloud.
    browser.eval("shown.answer.saliency.confidence = 0.3; await take(shown.answer, true); true");
    for words in ["$('list').innerText", "$('said').textContent"] {
        assert!(browser.text(words).contains("do not trust this map"), "{words}");
    }

    // Another model has a threshold of its own; one that was moved stays.
    let choose = |name: &str| {
        browser.eval(&format!(
            "$('which').value = '{name}'; $('which').dispatchEvent(new Event('change')); true"
        ));
        scene.answered();
    };
    choose("border");
    assert_eq!(threshold(), json!(["0.25", 0.25]));
    assert_eq!(browser.eval("shown.answer.saliency.deviations"), 0.25);
    assert!(!browser.text("$('curl').textContent").contains("threshold="));
    browser.eval("$('threshold').value = 1; $('threshold').dispatchEvent(new Event('change')); true");
    scene.answered();
    let first = browser.text("$('which').options[0].value");
    choose(&first);
    assert_eq!(threshold(), json!(["\u{2212}0.6", 1]));
    browser.eval("$('reset').click()");
    scene.answered();
    assert_eq!(browser.eval("shown.answer.saliency.deviations"), -0.6);

    // What a model lacks is told to clients with the exporter's command, and to the page's visitors without.
    browser.eval(
        "await ask('/v1/embed?pool=foreground', { method: 'POST', body: 'x', headers: { 'content-type': 'image/png' } }).catch(fail); true",
    );
    let words = browser.text("$('error').innerText");
    assert!(
        words.contains("no feature map") && words.contains("Whoever runs this server can help."),
        "{words}"
    );
    assert!(!words.contains("occlude-"), "{words}");
    browser.assert_clean();
}

#[test]
fn shows_no_answer_of_another_model() {
    let plain = format!("plain={}", fixture("adopted.onnx").display());
    let Some(scene) = Scene::start(&["--model", &plain]) else { return };
    let browser = &scene.browser;
    scene.choose(&[PHOTO]);
    // One whose file was replaced under its name is asked anew.
    browser.eval(
        "window.before = shown.answer; server.models[0].identity = 'before'; $('threshold').dispatchEvent(new Event('change')); true",
    );
    browser.until("shown.answer !== before");
    scene.answered();

    // One without maps leaves none on show.
    browser.eval("$('which').value = 'plain'; $('which').dispatchEvent(new Event('change')); true");
    browser.until("$('busy').hidden && !map && $('facts').hidden");
    let words = browser.text("$('near-note').textContent");
    assert!(words.starts_with("The gallery is that of"), "{words}");
    assert_eq!(browser.text("$('canvas').ariaLabel"), PHOTO);
    browser.assert_clean();
}
