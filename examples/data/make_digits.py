"""Makes digits_images.npy and digits_labels.npy from the digits that scikit-learn ships.

    python3 -m venv /tmp/digits && /tmp/digits/bin/pip install numpy && /tmp/digits/bin/pip install --no-deps scikit-learn==1.9.1
    /tmp/digits/bin/python examples/data/make_digits.py

Each line of its digits.csv.gz is 64 pixels of 0 to 16, row by row, and the digit. Both fit int8.
"""
import importlib.util
import pathlib

import numpy as np

package = importlib.util.find_spec("sklearn")
path = pathlib.Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
table = np.loadtxt(path, delimiter=",").astype(np.int8)
here = pathlib.Path(__file__).parent
np.save(here / "digits_images.npy", table[:, :64])
np.save(here / "digits_labels.npy", table[:, 64])
print("images", table[:, :64].shape, "labels", table[:, 64].shape)
