"""`python -m serving`."""

import sys

from serving.server.workers import serve

if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
