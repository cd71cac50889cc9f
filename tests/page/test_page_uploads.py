"""Files and folders that are dropped on the page. The drop is the browser's own, with real paths."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def visit(visits, empty_served):
    """The page of a server without a collection."""
    visit = visits(empty_served)
    visit.page.wait_for_selector(".nothing h2")
    # The status of a file that is refused.
    visit.allowed = ["Failed to load resource"]
    return visit


@pytest.fixture
def drop(visit):
    """Drops files and folders on the page."""
    session = visit.page.context.new_cdp_session(visit.page)

    def dropped(*paths):
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}

        def drag(kind):
            session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})

        drag("dragEnter")
        # As a browser does, again and again while the files are over the page.
        for _ in range(100):
            drag("dragOver")
            if visit.page.is_visible("#drop-veil"):
                break
            visit.page.wait_for_timeout(100)
        drag("drop")

    return dropped


@pytest.fixture
def folder(empty_served):
    """An empty folder of the user."""
    folder = empty_served.home / "dropped"
    folder.mkdir()
    return folder


def wait_until_read(page, collection="uploads"):
    page.wait_for_selector(f".card:has-text('{collection}')")
    page.wait_for_selector("#jobs .job:not(.error)", state="detached")


def test_a_folder_is_dropped_with_its_folders_and_without_what_is_hidden(visit, drop, folder, empty_served):
    for name in ("one.md", "deep/er/two.md", ".git/config.md", "deep/.hidden.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"A reddish planet of {name}.\n")
    drop(folder)
    visit.page.wait_for_selector("#toast:has-text('Sent 2 files.')")
    wait_until_read(visit.page)
    visit.page.click("[data-tab=search]")
    visit.page.fill("#query", "reddish planet")
    visit.page.wait_for_selector(".hit:has-text('dropped/deep/er/two.md')")
    visit.page.wait_for_selector(".hit:has-text('dropped/one.md')")
    assert visit.page.locator(".hit").count() == 2


def test_files_that_are_refused_are_named_with_the_reason_and_the_others_are_sent(visit, drop, folder):
    (folder / "good.txt").write_text("A river.\n")
    (folder / "program.exe").write_bytes(b"MZ")
    with (folder / "huge.pdf").open("wb") as file:
        file.truncate(65 * 1024 * 1024)
    drop(*sorted(folder.iterdir()))
    visit.page.wait_for_selector("#toast:has-text('Sent 1 file.')")
    told = visit.page.locator(".job.error")
    assert "2 files could not be added" in told.inner_text()
    assert "files of this kind are not read" in told.inner_text()
    assert "huge.pdf: It has 68 MB. The most is 67 MB." in told.inner_text()
    told.get_by_role("button", name="Close").click()
    assert told.count() == 0
    assert visit.page.evaluate("document.activeElement.id") == "main"


def test_a_file_with_a_known_name_replaces_the_one_before(visit, drop, folder):
    (folder / "other").mkdir()
    for path, text in ((folder / "a.md", "A mountain."), (folder / "other/a.md", "A river.")):
        path.write_text(text)
        drop(path)
        visit.page.wait_for_selector("#toast:has-text('Sent 1 file.')")
        wait_until_read(visit.page)
    visit.page.click("[data-tab=search]")
    visit.page.fill("#query", "river")
    visit.page.wait_for_selector(".hit:has-text('A river.')")
    visit.page.fill("#query", "mountain")
    visit.page.wait_for_selector(".nothing h2")


def test_of_two_files_with_one_name_in_a_drop_the_second_is_refused(visit):
    visit.page.evaluate("""() => {
        const transfer = new DataTransfer();
        for (const text of ["one", "two"]) transfer.items.add(new File([text], "a.md"));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
    }""")
    visit.page.wait_for_selector("#toast:has-text('Sent 1 file.')")
    visit.page.wait_for_selector(".job.error:has-text('a.md: Another file of this drop has the same name.')")


def test_a_large_folder_shows_how_far_it_is_and_can_be_stopped(visit, drop, folder):
    for at in range(2100):
        (folder / f"{at}.txt").write_text(f"Number {at}.\n")
    drop(folder)
    visit.page.wait_for_selector("#jobs .job-what:has-text('of 2,000)')")
    visit.page.wait_for_function("document.querySelector('#jobs progress')?.value >= 3")
    visit.page.click("#jobs button:text('Stop')")
    visit.page.wait_for_selector("#toast:has-text('Stopped. Sent ')")
    assert "Only the first 2000 files were taken." in visit.page.locator(".job.error").inner_text()
    assert visit.page.evaluate("document.activeElement.id") == "main"


def test_an_empty_folder_is_told(visit, drop, folder):
    drop(folder)
    visit.page.wait_for_selector("#toast:has-text('There is no file in what you dropped.')")
    assert visit.page.locator("#jobs .job").count() == 0


def test_a_collection_of_folders_takes_no_files_and_says_so_once(visit, drop, folder, empty_served):
    for name in ("a.md", "b.md"):
        (folder / name).write_text("A river.\n")
    empty_served.command("sync", str(folder))
    visit.page.click("[data-tab=collections]")
    visit.page.fill("#drop-name", "dropped")
    drop(folder / "a.md", folder / "b.md")
    told = visit.page.locator(".job.error")
    told.wait_for()
    assert told.locator("li").all_inner_texts() == [
        "collection dropped: does not take uploads: its files are in folders of the user. Change them there."
    ]
