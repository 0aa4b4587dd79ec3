"""Servers on this machine that images are read from: S3's API by moto, and a web server."""

import os
import threading
import uuid
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def s3_bucket(name):
    """A bucket of a server that speaks S3's API; variables tell s3fs where it is."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    variables = {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        s3fs.S3FileSystem.clear_instance_cache()
        # moto keeps its buckets from one server of a process to the next.
        bucket = f"{name}-{uuid.uuid4().hex}"
        s3fs.S3FileSystem().mkdir(bucket)
        yield f"s3://{bucket}"
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


class FlakyServer(ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        answers: status that is answered in place of a file, by its path; 0 drops the connection.
        remaining: how often that is done, by path; without a number, always.
        requests: the paths that were asked for.
        url: of the folder.
    """

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.answers, self.remaining, self.requests = {}, {}, []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def running(self):
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()
            thread.join()


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        server, path = self.server, self.path
        server.requests.append(path)
        status = server.answers.get(path)
        if status is None or server.remaining.get(path, 1) <= 0:
            super().do_GET()
            return
        if path in server.remaining:
            server.remaining[path] -= 1
        if status:
            self.send_error(status)
        else:
            self.close_connection = True

    def log_message(self, *_):
        pass
