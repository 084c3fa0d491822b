//! The page in a headless browser: what a person does with it, with a mouse, a keyboard or a phone.

mod scene;

use serde_json::{Value, json};

use self::scene::behind_a_path;
pub(crate) use self::scene::{PHOTO, Scene, wait_for_file};
use crate::common::*;

#[test]
fn looks_at_pictures_and_prints_what_it_did() {
    let Some(scene) = Scene::start(&[]) else { return };
    let browser = &scene.browser;
    browser.screenshot("empty");
    scene.choose(&[PHOTO, "other.png"]);
    assert_eq!(browser.eval("[pictures.length, shown.name, $('strip').hidden]"), json!([2, PHOTO, false]));
    browser.screenshot("light");

    // The overlay follows the opacity.
    let canvas = || browser.text("$('canvas').toDataURL()");
    let before = canvas();
    browser.eval("$('opacity').value = 20; $('opacity').dispatchEvent(new Event('input'))");
    assert_ne!(before, canvas());
    browser.eval("document.querySelector('[value=mask]').click()");
    browser.screenshot("mask");

    // The neighbours, and the way to one of them.
    browser.until("$('found').children.length === server.gallery.images");
    browser.until("[...document.querySelectorAll('#found img')].every((i) => i.complete && i.naturalWidth)");
    assert!(browser.text("$('said').textContent").contains("nearest pictures"), "said aloud");

    // The page computes what the server says, at every threshold.
    for deviations in [-0.6, -1.5, 0.3, 1.1, 3.9] {
        scene.threshold(deviations);
        assert_eq!(browser.eval("shown.answer.saliency.deviations"), deviations);
        let told = "shown.answer.saliency.foreground_ratio === foreground(map, drawn()).filter(Boolean).length / map.values.length";
        assert_eq!(browser.eval(told), true, "at {deviations}");
        let boxes = "parts(map, foreground(map, drawn())).length === shown.answer.saliency.boxes.length";
        assert_eq!(browser.eval(boxes), true, "at {deviations}");
    }
    scene.threshold(0.3);

    // The commands are the request that was made.
    let answer = browser.eval("shown.answer");
    let told: Value = serde_json::from_slice(&scene.curl("").stdout).unwrap();
    assert_eq!(told["results"][0]["saliency"], answer["saliency"]);
    assert_eq!(told["results"][0]["neighbours"], answer["neighbours"]);
    assert!(browser.text("$('curl').textContent").contains("threshold=0.3"));
    let printed = String::from_utf8(scene.python("").stdout).unwrap();
    assert!(printed.contains("'foreground_ratio'") && printed.contains("'neighbours'"), "{printed}");

    // Saved files are what the printed commands write.
    let saved = scene.path("saved");
    std::fs::create_dir(&saved).unwrap();
    browser.save_into(&saved);
    for (what, name) in [
        ("mask", "my photo's-mask.png"),
        ("overlay", "my photo's-overlay.png"),
        ("embedding", "my photo's.npy"),
    ] {
        browser.eval(&format!("document.querySelector('[data-save={what}]').click()"));
        browser.until(&format!("$('said').textContent === {} + ' is saved'", json!(name)));
        // Browsers may replace characters of a name.
        let written = wait_for_file(&saved.join(name));
        for run in [Scene::curl, Scene::python] {
            run(&scene, "");
            assert_eq!(std::fs::read(scene.path(name)).unwrap(), written, "{name}");
            std::fs::remove_file(scene.path(name)).unwrap();
        }
    }
    browser.until("$('made').options.length > 3");

    // The clipboard holds the command.
    browser.call("Browser.grantPermissions", &json!({ "permissions": ["clipboardReadWrite"] }));
    browser.call("Emulation.setFocusEmulationEnabled", &json!({ "enabled": true }));
    browser.eval("document.querySelector('[data-copy=curl]').click()");
    browser.until("document.querySelector('[data-copy=curl]').textContent.startsWith('Copied')");
    assert_eq!(browser.text("await navigator.clipboard.readText()"), browser.text("$('curl').textContent"));

    // A neighbour becomes the picture; the strip leads back.
    browser.eval("document.querySelector('#found button').click()");
    browser.until("pictures.length === 3 && shown === pictures[2]");
    scene.answered();
    // It is searched by its number, and does not find itself.
    browser.until("$('found').children.length === server.gallery.images - 1");
    let told: Value = serde_json::from_slice(&scene.curl("").stdout).unwrap();
    assert_eq!(told["neighbours"].as_array().unwrap().len(), 1);
    assert!(!scene.python("").stdout.is_empty());
    browser.eval("document.querySelector('#strip button').click()");
    browser.until("shown === pictures[0]");
    scene.answered();

    // Pictures are pasted and dropped too.
    for (event, carrier, count) in
        [("ClipboardEvent('paste'", "clipboardData", 4), ("DragEvent('drop'", "dataTransfer", 5)]
    {
        let give = format!(
            "const d{count} = new DataTransfer(); d{count}.items.add(new File([shown.blob], 'given.png', {{ type: 'image/png' }})); \
             dispatchEvent(new {event}, {{ {carrier}: d{count}, cancelable: true }}))"
        );
        browser.eval(&give);
        browser.until(&format!("pictures.length === {count} && shown === pictures[{count} - 1]"));
        scene.answered();
    }
    let kept = browser.eval("pictures.filter((p) => p.bitmap).length");
    assert_eq!(kept, 1, "only the picture on show is kept decoded");
    browser.assert_clean();
}

#[test]
fn is_used_by_keyboard_alone() {
    let Some(scene) = Scene::start(&[]) else { return };
    let browser = &scene.browser;
    browser.call("Page.setInterceptFileChooserDialog", &json!({ "enabled": true }));
    // Presses Tab until the element has the focus, which has to be seen.
    let tab_to = |wanted: &str| {
        for _ in 0..40 {
            browser.press("Tab");
            let seen = "(() => { const e = document.activeElement, l = e.closest('label'); \
                        return [e, l].some((x) => x && getComputedStyle(x).outlineStyle !== 'none'); })()";
            assert_eq!(browser.eval(seen), true, "{}", browser.text("document.activeElement.outerHTML"));
            if browser.eval(&format!("document.activeElement.matches('{wanted}')")) == true {
                return;
            }
        }
        panic!("Tab never reaches {wanted}");
    };
    tab_to(".skip");
    tab_to("#pick");
    browser.press("Enter");
    let chooser = browser.event("Page.fileChooserOpened");
    let files = json!({ "backendNodeId": chooser["backendNodeId"], "files": [scene.path(PHOTO)] });
    browser.call("DOM.setFileInputFiles", &files);
    scene.answered();
    tab_to("[name=view]");
    browser.press("ArrowRight");
    assert_eq!(browser.eval("document.querySelector('[name=view]:checked').value"), "mask");
    tab_to("#threshold");
    let calls = browser.eval("requests.length").as_u64().unwrap();
    browser.press("ArrowRight");
    browser.until(&format!("requests.length > {calls}"));
    scene.answered();
    assert_eq!(browser.eval("shown.answer.saliency.deviations"), -0.55);
    // Arrows lead from card to card, and whoever opens one goes on at the picture.
    tab_to("#found .open");
    browser.press("ArrowRight");
    assert_eq!(browser.eval("document.activeElement === $('found').children[1].firstChild"), true);
    browser.screenshot("keyboard");
    browser.press("Enter");
    browser.until("pictures.length === 2 && shown === pictures[1]");
    scene.answered();
    assert_eq!(browser.eval("document.activeElement.id"), "stage");
    tab_to("#opacity");
    browser.press("ArrowLeft");
    assert_eq!(browser.eval("$('opacity').value"), "59");
    tab_to("#reset");
    tab_to("[data-save=mask]");
    // Everything that can be used has a name.
    let nameless = "[...document.querySelectorAll('button, input, select, a, #canvas, pre')]\
        .filter((e) => !(e.textContent.trim() || e.labels?.length || e.ariaLabel || e.title)).map((e) => e.outerHTML)";
    assert_eq!(browser.eval(nameless), json!([]));
    browser.assert_clean();
}

/// WCAG's contrast of an element's text with what lies behind it.
const CONTRAST: &str = "(selector) => {
    const light = (c) => { const v = c.match(/[\\d.]+/g).slice(0, 3).map((x) => x / 255)
        .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)); return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
    const element = document.querySelector(selector);
    let behind = element;
    while (behind && getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
    const [a, b] = [light(getComputedStyle(element).color), light(getComputedStyle(behind).backgroundColor)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}";

#[test]
fn fits_a_phone_and_the_dark_and_says_what_is_wrong() {
    let Some(scene) = Scene::start(&[]) else { return };
    let browser = &scene.browser;
    scene.choose(&[PHOTO]);
    for scheme in ["light", "dark"] {
        browser.scheme(scheme);
        let dark = browser.eval("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 128");
        assert_eq!(dark, scheme == "dark");
        for text in [
            "body",
            ".soft",
            "#pick",
            "#again",
            "dt",
            "pre",
            "h2",
            ".seg label:has(:checked)",
            "footer a",
            "nav a",
            "nav a[aria-current]",
            "summary",
            ".hit .where",
        ] {
            let contrast = browser.eval(&format!("({CONTRAST})('{text}')")).as_f64().unwrap();
            assert!(contrast >= 4.5, "{text} has {contrast:.2} when it is {scheme}");
        }
        browser.screenshot(scheme);
    }
    browser.size(360, 740, true);
    let widths = browser.eval("[innerWidth, document.documentElement.scrollWidth]");
    assert_eq!(widths, json!([360, 360]), "nothing to scroll sideways");
    browser.until("$('canvas').getBoundingClientRect().right <= 360");
    let near = browser.eval("$('near').getBoundingClientRect().top + scrollY").as_f64().unwrap();
    assert!(near < 740.0, "the neighbours begin at {near}, below the first screen");
    browser.screenshot("phone-dark");
    browser.scheme("light");

    // A text file: the server's own words, hint and id.
    browser.choose("#file", &[scene.path("notes.txt")]);
    browser.until("!$('error').hidden && $('busy').hidden");
    let words = browser.text("$('error').innerText");
    assert!(words.contains("JPEG, PNG, WebP, BMP") && words.contains("Request "), "{words}");
    assert_eq!(browser.eval("[innerWidth, document.documentElement.scrollWidth]"), json!([360, 360]));
    browser.screenshot("phone-error");
    scene.choose(&["other.png"]);
    assert_eq!(browser.eval("$('error').hidden"), true, "gone with the next picture");
    browser.screenshot("phone");
    browser.assert_clean();
}

#[test]
fn asks_for_the_key_of_a_locked_server() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    let key = occlude_serve::create_key("page", keys.path()).unwrap();
    let flags = ["--api-keys", keys.path().to_str().unwrap()];
    let Some(scene) = Scene::start(&flags) else { return };
    let browser = &scene.browser;
    browser.until("!$('locked').hidden && document.activeElement === $('key')");
    browser.screenshot("locked");
    browser.write("ock_wrong");
    browser.press("Enter");
    browser.until("!$('error').hidden && !$('locked').hidden");
    let words = browser.text("$('error').innerText");
    assert!(words.contains("API key") && !words.contains("occlude-"), "no operator's commands: {words}");
    browser.write(&key);
    browser.press("Enter");
    browser.until("$('locked').hidden");
    scene.choose(&[PHOTO]);
    browser.until("$('found').children.length === server.gallery.images");
    browser.until("[...document.querySelectorAll('#found img')].every((i) => i.naturalWidth)");
    let kept = browser.eval("[Object.keys(sessionStorage), localStorage.length, document.cookie]");
    assert_eq!(kept, json!([["key"], 0, ""]));
    let page = browser.text("document.documentElement.outerHTML");
    assert!(!page.contains(&key), "the commands name a variable");
    let told: Value = serde_json::from_slice(&scene.curl(&key).stdout).unwrap();
    assert_eq!(told["results"][0]["saliency"], browser.eval("shown.answer.saliency"));
    assert!(!scene.python(&key).stdout.is_empty());
    browser.assert_clean();
}

#[test]
fn chooses_models_and_collections() {
    let second = fixture("tiny-uint8.onnx");
    let data = tempfile::tempdir().unwrap();
    let flags = ["--model", &format!("bytes={}", second.display()), "--data", data.path().to_str().unwrap()];
    let Some(scene) = Scene::start(&flags) else { return };
    let browser = &scene.browser;
    assert_eq!(browser.eval("$('models').hidden"), false);
    assert_eq!(browser.eval("$('sources').hidden"), true, "there are no collections");
    let made = scene.server.send("PUT", "/v1/collections/dresses", "application/json", b"{}");
    assert!(made.starts_with("HTTP/1.1 201"), "{made}");
    let photo = base64(&std::fs::read(scene.path(PHOTO)).unwrap());
    let other = base64(&std::fs::read(scene.path("other.png")).unwrap());
    let points = json!({ "points": [
        { "id": "photo", "image": photo, "payload": { "title": "red dress" } }, { "id": "other", "image": other },
    ] });
    let filled = scene.server.send(
        "POST",
        "/v1/collections/dresses/points",
        "application/json",
        points.to_string().as_bytes(),
    );
    assert!(filled.starts_with("HTTP/1.1 200"), "{filled}");
    scene.open(&scene.url());
    browser.until("!$('sources').hidden && $('source').options.length === 2");
    // The gallery is the default, even where it is known after the collections.
    const LATE: &str = "{ const known = server.gallery; server.gallery = null; sources(); const first = $('source').value; \
                        server.gallery = known; sources(); [first, $('source').value] }";
    assert_eq!(browser.eval(LATE), json!(["/dresses", "/"]));
    scene.choose(&[PHOTO]);
    browser.eval("$('which').value = 'bytes'; $('which').dispatchEvent(new Event('change')); true");
    scene.answered();
    assert!(browser.text("$('curl').textContent").contains("model=bytes"));

    browser.eval("$('source').value = '/dresses'; $('source').dispatchEvent(new Event('change')); true");
    browser.until("document.querySelectorAll('#found .hit').length === 2");
    assert!(browser.text("$('found').innerText").contains("red dress"));
    assert!(browser.text("$('said').textContent").contains("2 nearest in dresses"));
    let told: Value = serde_json::from_slice(&scene.curl("").stdout).unwrap();
    assert_eq!((&told["hits"][0]["id"], told["hits"].as_array().unwrap().len()), (&json!("photo"), 2));
    assert!(!scene.python("").stdout.is_empty());
    browser.screenshot("collection");
}

#[test]
fn works_below_a_path_of_a_proxy() {
    let data = tempfile::tempdir().unwrap();
    let flags = ["--data", data.path().to_str().unwrap()];
    let Some(scene) = Scene::start(&flags) else { return };
    let browser = &scene.browser;
    let made = scene.server.send("PUT", "/v1/collections/dresses", "application/json", b"{}");
    assert!(made.starts_with("HTTP/1.1 201"), "{made}");
    let outside = behind_a_path(&scene.server);
    for address in [format!("{outside}/"), outside.clone()] {
        scene.open(&address);
        browser.until("server.gallery && $('source').options.length === 2");
        scene.choose(&[PHOTO]);
        browser.until("$('found').children.length === server.gallery.images");
        browser
            .until("[...document.querySelectorAll('#found img')].every((i) => i.complete && i.naturalWidth)");
        let links = browser.eval("[...document.querySelectorAll('footer a')].map((a) => a.href)");
        assert_eq!(links, json!(["readyz", "metrics", "docs/"].map(|l| format!("{outside}/{l}"))));
        assert!(browser.text("$('curl').textContent").contains(&format!("{outside}/v1/analyze")));
        let told: Value = serde_json::from_slice(&scene.curl("").stdout).unwrap();
        assert_eq!(told["results"][0]["saliency"], browser.eval("shown.answer.saliency"));
        browser.eval("$('source').value = '/dresses'; $('source').dispatchEvent(new Event('change')); true");
        browser.until("$('near-note').textContent === 'Nothing is near.'");
    }
    browser.assert_clean();
    // The page of the document, too: what it tries goes where the document is.
    browser.open(&format!("{outside}/docs/"));
    browser.until("document.querySelector('.opblock')");
    let base = browser.text("ui.getState().getIn(['spec', 'url'])");
    assert!(base.contains("openapi.json"), "{base}");
}

/// A photo of a phone is much more than a model takes.
#[test]
fn sends_a_smaller_copy_of_a_large_file() {
    let Some(scene) = Scene::start(&[]) else { return };
    let browser = &scene.browser;
    let noise = |n: u32| {
        let mut state = 1u32;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect::<Vec<_>>()
    };
    std::fs::write(scene.path("large.png"), png_of(900, 600, &noise(900 * 600 * 3))).unwrap();
    std::fs::write(scene.path("thin.png"), png_of(20_000, 20, &noise(20_000 * 20 * 3))).unwrap();
    scene.choose(&["large.png"]);
    // The fixture's contract resizes the short side to 36: twice that is sent, in the same proportions.
    let sent =
        browser.eval("[shown.answer.width, shown.answer.height, shown.small.size < shown.blob.size / 20]");
    assert_eq!(sent, json!([108, 72, true]));
    let facts = browser.text("$('list').innerText");
    assert!(facts.contains("900 × 600") && facts.contains("108 × 72"), "{facts}");
    assert_eq!(browser.eval("$('small-note').hidden"), false);
    // The command sends the file itself; the two agree but for the pixels between.
    let told: Value = serde_json::from_slice(&scene.curl("").stdout).unwrap();
    assert_eq!(told["results"][0]["width"], 900);
    browser.screenshot("smaller");
    // A file that is large and yet no larger than the model takes goes as it is, and so does a small file.
    scene.choose(&["thin.png"]);
    assert_eq!(
        browser.eval("[shown.small, shown.answer.width, shown.answer.height]"),
        json!([null, 20_000, 20])
    );
    scene.choose(&[PHOTO]);
    assert_eq!(
        browser.eval("[shown.small, shown.answer.width, $('small-note').hidden]"),
        json!([null, 420, true])
    );
    // What is saved is of the file itself.
    scene.choose(&["large.png"]);
    let answer = browser.eval(
        "(await createImageBitmap(await (await send({ picture: shown, path: '/v1/saliency?view=mask', headers: \
         headersOf(shown, 'image/png') })).blob())).width",
    );
    assert_eq!(answer, 900);
    browser.assert_clean();
}
