"""What `store adopt-topic` would do with a partition, by what store and Kafka say."""

import pytest

from worker.cli.adopting import Wish, is_to_be_adopted, start_of
from worker.stores.port import PartitionRow, TopicIdentity
from worker.survey import Extent, Survey

HERE = TopicIdentity(cluster_id="cluster", topic_id="topic")
ANEW = TopicIdentity(cluster_id="cluster", topic_id="topic made anew")
PLAIN = Wish(from_committed=False, abandon_unpublished=False, dry_run=False, as_json=False)
FROM_COMMITTED = Wish(from_committed=True, abandon_unpublished=False, dry_run=False, as_json=False)


def a_row(identity=HERE, lost_at=None):
    return PartitionRow(owner=1, publisher="p", applied=120, published=120, identity=identity, lost_at=lost_at)


def a_survey(identity=HERE, **extents):
    return Survey(identity, extents.get("extents", {0: Extent(5, 200)}))


@pytest.mark.parametrize(
    ("row", "survey", "is_so"),
    [
        pytest.param(a_row(), a_survey(), False, id="the same topic"),
        pytest.param(a_row(), a_survey(ANEW), True, id="another topic"),
        pytest.param(a_row(lost_at=110), a_survey(), True, id="the same topic, which has lost records"),
        pytest.param(a_row(identity=None), a_survey(), False, id="a row from before ids were kept"),
        pytest.param(a_row(identity=None, lost_at=110), a_survey(), True, id="such a row, found too long"),
        pytest.param(a_row(), a_survey(None), False, id="brokers without ids"),
        pytest.param(a_row(), a_survey(extents={}), True, id="a partition that is gone"),
    ],
)
def test_only_what_does_not_fit_is_adopted(row, survey, is_so):
    assert is_to_be_adopted(0, row, survey) is is_so


@pytest.mark.parametrize(
    ("row", "survey", "committed", "wish", "start"),
    [
        pytest.param(a_row(), a_survey(ANEW), 70, PLAIN, 5, id="another topic: from its beginning"),
        pytest.param(a_row(), a_survey(ANEW), 70, FROM_COMMITTED, 70, id="unless a person says otherwise"),
        pytest.param(a_row(), a_survey(ANEW), None, FROM_COMMITTED, 5, id="and the group has an offset"),
        pytest.param(a_row(lost_at=110), a_survey(), 120, PLAIN, 110, id="lost records: from where it ended"),
        pytest.param(a_row(lost_at=3), a_survey(), 120, PLAIN, 5, id="but not before its beginning"),
        pytest.param(a_row(identity=None, lost_at=3), a_survey(), 120, PLAIN, 5, id="from before ids: another topic"),
        pytest.param(a_row(), a_survey(extents={}), 120, PLAIN, None, id="a partition that is gone"),
    ],
)
def test_where_an_adopted_partition_is_read_from(row, survey, committed, wish, start):
    assert start_of(0, row, survey, {0: committed}, wish) == start
