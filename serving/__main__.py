"""`python -m serving`."""

import sys

from serving.workers import serve

if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
