"""A video's frames, decoded on first access and cached while there is room.

H W: pixels.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

from rvosbench.harness.data.caches import ArrayCache
from rvosbench.harness.data.images import image_size, read_rgb
from rvosbench.harness.data.types import FrameHW3, Video
from rvosbench.harness.errors import SampleError

CACHE_BYTES = 4 * 2**30
THREADS = 8


class DecodedFrames:
    """Implements ``rvosbench.harness.stages.VideoFrames``. Frames come out read-only: they are shared.

    A copy sent to another process starts with an empty cache.
    """

    def __init__(self, video: Video, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._video = video
        self._cache: ArrayCache[FrameHW3] = ArrayCache(cache_bytes)

    @property
    def video(self) -> Video:
        return self._video

    def __len__(self) -> int:
        return len(self._video.frames)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(H, W), the same for every frame; read from the headers.

        Raises:
            SampleError: a file is missing or no image, or two frames differ in size.
        """
        paths = self._video.frame_paths
        if not paths:
            raise SampleError(f"video '{self._video.name}' has no frames")
        with ThreadPoolExecutor(THREADS) as pool:
            sizes = list(pool.map(image_size, paths))
        for path, size in zip(paths, sizes, strict=True):
            if size != sizes[0]:
                raise SampleError(
                    f"{path} is {size[1]}x{size[0]} (width x height), but {paths[0]} is {sizes[0][1]}x{sizes[0][0]}"
                )
        return sizes[0]

    def __getitem__(self, index: int) -> FrameHW3:
        """Frame ``index`` as (H, W, 3) uint8 RGB.

        Raises:
            SampleError: the file is missing, damaged, of an unsupported kind, or of another size than the video.
            IndexError: there is no such frame.
        """
        index = range(len(self))[index]
        return self._cache.get(index, lambda: self._decode(index))

    def _decode(self, index: int) -> FrameHW3:
        path = self._video.frame_paths[index]
        frame_HW3 = read_rgb(path)
        height, width = self.size
        if frame_HW3.shape[:2] != (height, width):
            raise SampleError(f"{path} is {frame_HW3.shape[1]}x{frame_HW3.shape[0]}, expected {width}x{height}")
        return frame_HW3
