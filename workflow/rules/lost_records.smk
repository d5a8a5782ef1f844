"""Results whose records Snakemake lost get new ones, from what they say of themselves.

A record is lost with .snakemake, and where a file is not the one that was recorded: copied, or put
in its place. With it Snakemake compares settings, code and inputs as if it had been there.
"""

from snakemake.io import IOFile
from snakemake.logging import logger
from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
from snakemake.persistence.file import FilePersistence

from vitals.lost_records import recovered


def is_recorded(path):
    record = RECORDS.metadata(IOFile(str(path)))
    return record is not None and record.endtime == path.stat().st_mtime


if workflow.is_main_process:
    RECORDS, restored = FilePersistence(), 0
    for made in recovered(STUDY, is_recorded):
        record = MetadataRecord(
            params=sorted(map(repr, made.params)),
            input=sorted(made.inputs),
            # one without is looked at again when the workflow starts again
            endtime=made.file.stat().st_mtime if made.lasting else None,
            record_format_version=RECORD_FORMAT_VERSION,
        )
        RECORDS._write_record(str(made.file), record)
        restored += 1
    if restored:
        logger.info(f"{restored} files had no record: they are judged by what they say themselves")
