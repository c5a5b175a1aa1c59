"""What `store realign` would do with a partition, by what store and Kafka say."""

from types import SimpleNamespace

import pytest

from worker.cli.realigning import _tell, lines_of
from worker.stores.port import PartitionRow, TopicIdentity
from worker.survey import Extent, Survey

HERE = TopicIdentity(cluster_id="cluster", topic_id="topic")
ANEW = TopicIdentity(cluster_id="cluster", topic_id="topic made anew")


def a_row(applied=120, identity=HERE, **changed):
    return PartitionRow(owner=1, publisher="p", applied=applied, published=applied, identity=identity, **changed)


def a_line(row, committed, beginning=0):
    it = SimpleNamespace(survey=Survey(HERE, {0: Extent(beginning, 200)}))
    return next(lines_of({0: row}, {0: committed}, it), None)


@pytest.mark.parametrize(
    ("row", "committed"),
    [
        pytest.param(a_row(), 120, id="all that is committed is applied"),
        pytest.param(a_row(), 110, id="offsets that somebody has reset"),
        pytest.param(a_row(), None, id="no offset"),
        pytest.param(a_row(identity=ANEW), 150, id="another topic"),
        pytest.param(a_row(lost_at=110), 150, id="lost records"),
        pytest.param(a_row(applied=None), 150, id="a partition that the store has never seen"),
        pytest.param(a_row(applied=300), 350, id="a partition that ends below"),
    ],
)
def test_what_is_not_behind_is_left_alone(row, committed):
    assert a_line(row, committed) is None


@pytest.mark.parametrize(
    ("beginning", "again", "gone"),
    [
        pytest.param(0, 30, 0, id="all of it is there"),
        pytest.param(120, 30, 0, id="just"),
        pytest.param(121, 29, 1, id="one is gone"),
        pytest.param(190, 0, 30, id="all are gone"),
    ],
)
def test_what_is_decided_again_and_what_is_gone_is_counted(beginning, again, gone):
    line = a_line(a_row(), 150, beginning)

    assert line == {"partition": 0, "committed": 150, "applied": 120, "again": again, "gone": gone}


def test_a_partition_that_cannot_be_realigned_is_named(capsys):
    _tell([a_line(a_row(), 150), a_line(a_row(), 150, 130) | {"partition": 7}], as_json=True)

    told = capsys.readouterr().err
    assert "at 30 offsets" in told
    assert "partitions [7]" in told
