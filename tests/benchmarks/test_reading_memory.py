"""Memory that reading a loader takes, against what is kept of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

READ = """
import gc, threading, time
import torch
from torch.utils.data import DataLoader, Dataset
from hfc_probe import PixelSpace, Samples

class Photographs(Dataset):
    def __len__(self):
        return 2000
    def __getitem__(self, k):
        generator = torch.Generator().manual_seed(k)
        image = torch.randint(256, (1, 3, 96, 96), generator=generator, dtype=torch.uint8)
        return PixelSpace.imagenet().normalize(image.float() / 255)[0], k % 10

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def watch():
    while not done:
        peaks.append(resident())
        time.sleep(0.001)

loader = DataLoader(Photographs(), batch_size=32)
Samples.collect(loader, limit=8)
gc.collect()
before, peaks, done = resident(), [], False
thread = threading.Thread(target=watch)
thread.start()
samples = Samples.collect(loader, limit=None)
done = True
thread.join()
assert samples.images.dtype == torch.uint8
print((max(peaks) - before) / samples.images.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_peaks_at_little_more_than_what_is_kept():
    # Freed memory goes back to the system at once, so that what is resident is in use.
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    ended = subprocess.run(
        [sys.executable, "-c", READ],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | at_once | {"OMP_NUM_THREADS": "1"},
    )
    ratio = float(ended.stdout)
    print(f"reading 2,000 images peaks at {ratio:.2f} of what is kept")
    assert ratio <= 1.2
