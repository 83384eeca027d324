// dispatch_choice.cpp: which job goes to which edge next; dispatch_lists.cpp keeps the tables.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "check.h"
#include "sched/dispatch_lists.h"

namespace picert::sched {
namespace {

bool holds(const std::vector<EdgeId>& edges, EdgeId edge) {
  return std::find(edges.begin(), edges.end(), edge) != edges.end();
}

}  // namespace

std::optional<Pull> DispatchLists::pull(double now) {
  PICERT_CHECK(std::isfinite(now), "the time is ", now);
  if (num_waiting_ == 0 || num_free_ == 0) return std::nullopt;
  std::optional<Pull> pull = discipline_ == Discipline::kLists ? pull_lists(now) : pull_baseline(now);
  if (pull) {
    ++counters_.pulls;
    ++next_pull_;
  }
  return pull;
}

std::optional<Pull> DispatchLists::pull_lists(double now) {
  const Order order = order_of_lists(now);
  for (int32_t i = 0; i < order.size; ++i) {
    const int32_t list = order.lists[i];
    const JobId first = lists_[list].jobs.begin()->second;
    const Job& job = jobs_.at(first);
    const Choice choice = earliest(job, now);
    if (choice.edge == kNoEdge) {
      if (choice.lacks_memory && i < order.num_urgent) return std::nullopt;
      continue;
    }
    if (should_wait(job, choice, now)) {
      ++counters_.held;
      continue;
    }
    Pull pull{choice.edge, {first}};
    start(first, choice.edge, now);
    fill(pull, list, now);
    return pull;
  }
  return std::nullopt;
}

// Lists with jobs: those whose first job is urgent by its age, then those with the most tokens.
DispatchLists::Order DispatchLists::order_of_lists(double now) const {
  using Rank = std::tuple<int32_t, double, int64_t, int32_t>;
  std::vector<Rank> ranks;
  ranks.reserve(kNumLists);
  Order order{};
  for (int32_t list = 0; list < kNumLists; ++list) {
    if (lists_[list].jobs.empty()) continue;
    const Job& job = jobs_.at(lists_[list].jobs.begin()->second);
    const bool goes_first = std::get<0>(job.key) == 0;
    const bool is_old = now - job.since >= aging_s_;
    const int32_t group = goes_first ? 0 : is_old ? 1 : 2;
    const double since = group < 2 ? job.since : 0.0;
    ranks.emplace_back(group, since, -lists_[list].tokens, list);
    ++order.size;
    order.num_urgent += group < 2;
  }
  std::sort(ranks.begin(), ranks.end());
  for (int32_t i = 0; i < order.size; ++i) order.lists[i] = std::get<3>(ranks[i]);
  return order;
}

// Of the edges with a place and the memory, the one that is predicted to finish the job first; of equals the
// one unused for longest.
DispatchLists::Choice DispatchLists::earliest(const Job& job, double now) const {
  Choice best;
  best.finish_s = std::numeric_limits<double>::infinity();
  const bool avoids = can_avoid(job);
  const auto consider = [&](EdgeId id, int32_t to_read) {
    const EdgeAccount& edge = edges_[id];
    if (!edge.has_place() || !may_take(job, id, avoids)) return;
    if (!edge.fits(job.size)) {
      best.lacks_memory = true;
      return;
    }
    const double finish = edge.finish_s(job.size, to_read, now);
    const bool is_better =
        finish < best.finish_s ||
        (finish == best.finish_s &&
         std::pair(edge.last_used(), id) < std::pair(edges_[best.edge].last_used(), best.edge));
    if (!is_better) return;
    best.edge = id;
    best.finish_s = finish;
  };
  for (EdgeId id = 0; id < static_cast<EdgeId>(edges_.size()); ++id) consider(id, job.size.prompt_tokens);
  for (const EdgeId id : requests_.at(job.request).edges) consider(id, job.size.tail_tokens);
  return best;
}

// Will the edges that have no place now have done all that waits by the time this one would be done with this
// job? Counted in jobs of this length. (One that has a place would not be done earlier, or it were the
// choice.)
bool DispatchLists::should_wait(const Job& job, const Choice& choice, double now) const {
  int64_t waiting = 0;
  for (const List& list : lists_) waiting += list.tokens;
  const int64_t wanted = (waiting + job.size.tokens - 1) / job.size.tokens;
  const bool avoids = can_avoid(job);
  int64_t done = 0;
  for (EdgeId id = 0; id < static_cast<EdgeId>(edges_.size()) && done < wanted; ++id) {
    const EdgeAccount& edge = edges_[id];
    if (!edge.is_available || edge.has_place() || !may_take(job, id, avoids)) continue;
    const double left_s = choice.finish_s - edge.link_s() - edge.running_s(now);
    const double job_s = edge.full_s(job.size);
    if (left_s >= job_s) done += edge.slots() * static_cast<int64_t>(left_s / job_s);
  }
  return done >= wanted;
}

// Fill places of the pull's edge from its list, then, if that is empty, from the nearest ones.
void DispatchLists::fill(Pull& pull, int32_t list, double now) {
  while (take_first(pull, list, now)) continue;
  for (int32_t distance = 1; distance < kNumLists && lists_[list].jobs.empty(); ++distance) {
    for (const int32_t other : {list - distance, list + distance}) {
      if (other < 0 || other >= kNumLists) continue;
      while (take_first(pull, other, now)) ++counters_.stolen;
    }
  }
}

// Start the first job of a list at the pull's edge, if that is still the best place for it.
bool DispatchLists::take_first(Pull& pull, int32_t list, double now) {
  if (lists_[list].jobs.empty() || !edges_[pull.edge].has_place()) return false;
  const JobId id = lists_[list].jobs.begin()->second;
  const Job& job = jobs_.at(id);
  const Choice choice = earliest(job, now);
  if (choice.edge != pull.edge || should_wait(job, choice, now)) return false;
  start(id, pull.edge, now);
  pull.jobs.push_back(id);
  return true;
}

bool DispatchLists::may_take(const Job& job, EdgeId edge, bool avoids) const {
  return !avoids || !holds(job.avoid, edge);
}

// There is an available edge that the job does not avoid.
bool DispatchLists::can_avoid(const Job& job) const {
  if (job.avoid.empty()) return false;
  for (EdgeId id = 0; id < static_cast<EdgeId>(edges_.size()); ++id) {
    if (edges_[id].is_available && !holds(job.avoid, id)) return true;
  }
  return false;
}

int32_t DispatchLists::read_tokens(const Job& job, EdgeId edge) const {
  return holds(requests_.at(job.request).edges, edge) ? job.size.tail_tokens : job.size.prompt_tokens;
}

// --- the baselines ---

std::optional<Pull> DispatchLists::pull_baseline(double now) {
  const JobId first = lists_[0].jobs.begin()->second;
  const EdgeId edge = baseline_edge(jobs_.at(first));
  if (edge == kNoEdge) return std::nullopt;
  start(first, edge, now);
  last_turn_ = edge;
  return Pull{edge, {first}};
}

EdgeId DispatchLists::baseline_edge(const Job& job) const {
  using Rank = std::tuple<double, int64_t, EdgeId>;
  const auto num_edges = static_cast<EdgeId>(edges_.size());
  const bool avoids = can_avoid(job);
  std::optional<Rank> best;
  for (EdgeId id = 0; id < num_edges; ++id) {
    const EdgeAccount& edge = edges_[id];
    if (!edge.has_place() || !edge.fits(job.size) || !may_take(job, id, avoids)) continue;
    Rank rank{0.0, edge.last_used(), id};
    if (discipline_ == Discipline::kRoundRobin) {
      rank = {0.0, (id - last_turn_ - 1 + num_edges) % num_edges, id};
    } else if (discipline_ == Discipline::kLeastLoaded) {
      std::get<0>(rank) = static_cast<double>(edge.num_running()) / edge.slots();
    }
    if (!best || rank < *best) best = rank;
  }
  return best ? std::get<2>(*best) : kNoEdge;
}

}  // namespace picert::sched
