"""What the stages that read images take for the image list."""

IMAGES = f"{ROOT}/images.parquet"


def image_list(stage, name):
    """The list as a stage reads it: as it is on disk where that already holds all it needs.

    Which images are a shard's own is in its `spec`. So a longer list makes new shards alone.
    """
    return ancient(before_update(IMAGES)) if STUDY.is_listed(stage, name) else IMAGES
