"""A model that nothing of ours trained is registered and forgets a person: real processes, to the receipt."""

import json
from collections.abc import Callable
from pathlib import Path

from models_store.manifest import digest_json
from models_store.tensors import tensor_digest, unpack
from tests.support.outside import ARGUMENTS, save_outside, train_outside
from tests.support.people import Subject, subjects_of
from tests.support.problems import problem_of
from tests.support.service import Home
from worker.data.sources import read_source

RECIPE = f"""
name = "outside"
batch_size = 32
[model]
factory = "worker.training.nets:mlp"
arguments = {{ in_features = 64, num_classes = 10, hidden = {ARGUMENTS["hidden"]} }}
[data]
dataset = "digits"
scale = 0.0625
[optimizer]
name = "sgd"
learning_rate = 0.1
momentum = 0.9
[policy]
accept_empirical = true
max_drop = 0.05
methods = {{ sfron = {{ cycles = 20, clip = 0.5, lift = 0.1 }} }}
"""
FILES = "/models/outside/versions"


def somebody_trained_on(home: Home) -> Subject:
    held_out = {row["row"] for row in home.rows("SELECT row FROM records WHERE is_held_out")}
    met = [each for each in subjects_of(home, model="outside") if not held_out & set(each.rows)]
    return min(met, key=lambda subject: subject.id)


def test_a_model_trained_with_plain_torch_forgets_a_person_and_every_paper_says_how(
    copy_of: Callable[[Home], Home], imported: Home, tmp_path: Path
) -> None:
    home = copy_of(imported)
    weights = train_outside(read_source("digits"), num_epochs=12)
    recipe, file = home.folder / "outside.toml", save_outside(weights, home.folder / "outside.safetensors")
    recipe.write_text(RECIPE)
    told = home.run("expunge-worker", "register", str(recipe), "--weights", str(file))
    assert "outside: version 1 is current" in told.out
    assert "held-out records count as never met" in told.out
    person, original = somebody_trained_on(home), set(home.store_files())
    home.worker()
    with home.service() as service:
        first = service.version("outside", 1)
        assert (first["guarantee"], first["method"]) == ("empirical", "register")
        served = service.admin.get(f"{FILES}/1/files/weights.safetensors").content
        assert tensor_digest(unpack(served)[0]) == tensor_digest(weights)

        deletion = service.forget(person.id)

        version = service.version("outside")
        assert (version["number"], version["guarantee"], version["method"]) == (2, "empirical", "sfron")
        tensors, _ = unpack(service.admin.get(f"{FILES}/2/files/weights.safetensors").content)
        assert digest_json([tensor_digest(tensors)]) == version["weights_digest"]
        assert tensor_digest(tensors) != tensor_digest(weights)
        problem_of(service.admin.get(f"{FILES}/1/files/weights.safetensors"), 410, "version-purged")
        assert not original & set(home.store_files())
        assert person.is_erased(home)

        receipt, keys = tmp_path / "receipt", tmp_path / "keys.json"
        receipt.write_text(service.admin.get(f"/deletions/{deletion}/receipt").text)
        keys.write_text(service.admin.get("/.well-known/jwks.json").text)
        said = home.run("expunge", "receipt", "verify", str(receipt), "--keys", str(keys))
        assert json.loads(said.out)["request"] == deletion
        assert "outside: treated by sfron" in said.err
