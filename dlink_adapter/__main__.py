"""`python -m dlink_adapter` is `dlink`."""

import sys

from dlink_adapter.cli import main

sys.exit(main())
