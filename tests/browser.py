"""A tab of Chromium with the page of `mvit-det app`, and what a visitor does there."""

from pathlib import Path

SECONDS = 120  # to wait for anything, also on a busy machine


class Visit:
    """The page in a tab, and the files of a folder to upload."""

    def __init__(self, tab, url, folder):
        self.tab, self.folder = tab, folder
        self.hosts = set()
        tab.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        tab.set_default_timeout(SECONDS * 1000)
        tab.goto(url)

    def upload(self, name):
        clear = self.tab.locator("#file button[aria-label=Clear]")
        if clear.count():
            self.after(clear.click)
        return self.after(self.tab.set_input_files, "#file input[type=file]", self.folder / name)

    def after(self, act, *arguments):
        """The text of the page once an action has changed it."""
        before = self.tab.input_value("#found textarea")
        act(*arguments)
        return self.wait(lambda: self.tab.input_value("#found textarea"), before)

    def set(self, name, value):
        box = self.tab.locator(f"#{name} input[type=number]")
        box.fill(str(value))
        box.press("Tab")

    def image(self):
        self.tab.wait_for_selector("#image img")
        return self.tab.get_attribute("#image img", "src")

    def download(self, name):
        with self.tab.expect_download() as started:
            self.tab.click(f"#{name}")
        return Path(started.value.suggested_filename), Path(started.value.path())

    def wait(self, read, before):
        """A value as soon as it differs from an earlier one."""
        for _ in range(SECONDS * 10):
            if (now := read()) != before:
                return now
            self.tab.wait_for_timeout(100)
        raise AssertionError(f"nothing changed {before!r}")
