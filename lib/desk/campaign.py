"""Labels of people, in files: `make campaign DO="..."`, or python -m lib.desk.campaign.

merge STORE OTHER ...       add what other stores hold, such as one a rater
import STORE FILE --as F    add a file of another campaign or a released format
export STORE PATH --as F    write the store: parquet and csv are folders with every row, others a file of what they can hold
"""

import argparse
from pathlib import Path

from lib.feedback.exchange import READ, export_file, export_store, import_file, import_store
from lib.feedback.formats import FORMATS
from lib.feedback.store import Store

WHOLE = ("parquet", "csv")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for; `what` is None if nothing."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.desk.campaign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(dest="what")
    merge, into, out = (what.add_parser(name) for name in ("merge", "import", "export"))
    for one in (merge, into, out):
        one.add_argument("store", type=Path)
    merge.add_argument("others", type=Path, nargs="+")
    for one, formats in ((into, READ), (out, FORMATS)):
        one.add_argument("path", type=Path)
        one.add_argument("--as", dest="form", choices=(*WHOLE, *formats), required=True)
        one.add_argument("--question", help="the question, where the format has answers to one of several")
        one.add_argument("--rater", help="who answered, where the file does not tell (import); whose answers (export)")
    into.add_argument("--images", type=Path, help="the folder of the images that the file names (its own)")
    given = parser.parse_args(arguments)
    if given.what is None:
        parser.print_help()
    if given.what == "export" and not given.store.is_file():
        parser.error(f"no store {given.store}: want a file that is there")
    return given


def carry_out(given: argparse.Namespace) -> str:
    """Do it, and say in one line what was done."""
    with Store.open(given.store) as store:
        if given.what == "merge":
            return f"{sum(store.merge(other) for other in given.others):,} new rows in {given.store.name}"
        if given.what == "import":
            if given.form in WHOLE:
                return f"{import_store(store, given.path):,} new rows in {given.store.name}"
            more = {"folder": given.images, "question": given.question} | ({"rater": given.rater} if given.rater else {})
            return f"{import_file(store, given.path, given.form, **more):,} new rows in {given.store.name}"
        if given.form in WHOLE:
            export_store(store, given.path, given.form)
            return f"{store.count():,} rows in {given.path}"
        count = export_file(store, given.path, given.form, question=given.question, rater=given.rater)
        return f"{count:,} answers in {given.path}"


if __name__ == "__main__":
    given = parse()
    if given.what:
        try:
            print(carry_out(given))
        except (ValueError, OSError) as error:
            raise SystemExit(str(error)) from error
