"""The forgotten do not come back: a later import of the source leaves them out and says how many."""

from tests.acceptance.conftest import Story
from tests.support.people import NUM_SUBJECTS, RECORDS_PER_SUBJECT


def test_importing_the_source_again_skips_the_records_of_whoever_was_forgotten(story: Story) -> None:
    home = story.service.home
    ids = [f"synthetic-{number:06d}" for number in range(NUM_SUBJECTS)]
    refs = {home.keyring.subject_refs(name, subject_type="person")[0] for name in ids}
    suppressed = {row["subject_ref"] for row in home.rows("SELECT subject_ref FROM suppressions")} & refs
    assert story.subject.ref in suppressed

    command = ("expunge-worker", "import", "digits", "--records-per-subject", "3", "--name", "again")
    num_skipped = RECORDS_PER_SUBJECT * len(suppressed)
    assert f"{num_skipped} skipped as suppressed" in home.run(*command).out
    query = "SELECT subject_ref FROM records r JOIN datasets d ON d.id = r.dataset_id WHERE d.name = 'again'"
    imported = {row["subject_ref"] for row in home.rows(query)}
    assert imported == refs - suppressed
