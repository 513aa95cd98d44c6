"""The package of users' Python files (run/user_code.py) in processes that these files start by spawn or forkserver.

Such a process imports the file by its module's name, so that name leads to this module, which finds the folder. Imports no JAX.
"""

import os
import sys

FOLDER = "DCGAN_JAX_USER_FOLDER"  # the variable that tells a started process where the files are
__path__ = [os.environ[FOLDER]] if FOLDER in os.environ else []
sys.path[:0] = [folder for folder in __path__ if folder not in sys.path]  # missing where a pool replaces a process between calls
