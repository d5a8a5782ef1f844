"""From the bytes of an image file to a picture."""

import io

from PIL import Image, ImageFile

from vitals.errors import one_line


def picture(content: bytes) -> Image.Image:
    """The picture of an image file, in RGB, in the orientation in which its pixels are stored.

    Raises OSError for a content that is no image, is cut short, or says that it is so large
    (Pillow's limit, 179 million pixels) that it is rather an attack.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # with it, the lost part of a picture would be grey
    try:
        with Image.open(io.BytesIO(content)) as opened:
            return opened.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes Pillow's readers fail in any way
        raise OSError(one_line(error) or type(error).__name__) from error
