"""`python -m muninn`."""

import sys

from muninn.cli.main import main

sys.exit(main())
