#include "sched/dispatch_lists.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "check.h"

namespace picert::sched {
namespace {

void expect(bool ok, const char* what) {
  if (!ok) throw std::logic_error(std::string("dispatch lists: ") + what);
}

template <typename T>
bool holds(const std::vector<T>& values, const T& value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

template <typename T>
void erase(std::vector<T>& values, const T& value) {
  values.erase(std::remove(values.begin(), values.end(), value), values.end());
}

}  // namespace

DispatchLists::DispatchLists(Discipline discipline, double aging_s)
    : discipline_(discipline), aging_s_(aging_s) {
  PICERT_CHECK(aging_s >= 0, "aging_s is ", aging_s, ", must be 0 or more");
}

// --- edges ---

EdgeId DispatchLists::add_edge(int32_t slots, int64_t kv_tokens, const EdgeSpeed& speed) {
  EdgeAccount edge(slots, kv_tokens, speed);
  if (unused_.empty()) {
    unused_.push_back(static_cast<EdgeId>(edges_.size()));
    edges_.emplace_back();
  }
  const EdgeId id = unused_.back();
  unused_.pop_back();
  count_places(edge, 1);
  edges_[id] = std::move(edge);
  return id;
}

void DispatchLists::set_speed(EdgeId edge, const EdgeSpeed& speed) {
  at(edge);
  edges_[edge].set_speed(speed);
  tokens_per_s_.reset();
}

void DispatchLists::set_available(EdgeId edge, bool is_available) {
  at(edge);
  count_places(edges_[edge], -1);
  edges_[edge].is_available = is_available;
  count_places(edges_[edge], 1);
}

void DispatchLists::remove_edge(EdgeId edge) {
  at(edge);
  set_available(edge, false);
  for (const JobId id : edges_[edge].running()) {
    const RequestId request = jobs_.at(id).request;
    jobs_.erase(id);
    forget(request);
  }
  for (auto& [id, request] : requests_) erase(request.edges, edge);
  for (auto& [id, job] : jobs_) erase(job.avoid, edge);
  edges_[edge] = EdgeAccount();
  unused_.push_back(edge);
}

const EdgeAccount& DispatchLists::at(EdgeId edge) const {
  const bool is_known = edge >= 0 && edge < static_cast<EdgeId>(edges_.size()) && edges_[edge].exists();
  PICERT_CHECK(is_known, "edge ", edge, " does not exist");
  return edges_[edge];
}

void DispatchLists::count_places(const EdgeAccount& edge, int32_t sign) {
  if (!edge.is_available) return;
  tokens_per_s_.reset();
  num_slots_ += sign * edge.slots();
  num_free_ += sign * (edge.slots() - edge.num_running());
}

// --- jobs ---

void DispatchLists::add(JobId id, RequestId request, const JobSize& size, double now, bool goes_first,
                        std::vector<EdgeId> avoid) {
  PICERT_CHECK(jobs_.count(id) == 0, "job ", id, " is there already");
  PICERT_CHECK(std::isfinite(now), "the time is ", now);
  PICERT_CHECK(size.tokens >= 1, "job ", id, " has ", size.tokens, " tokens to write, must be at least 1");
  PICERT_CHECK(0 <= size.tail_tokens && size.tail_tokens <= size.prompt_tokens, "job ", id, " has ",
               size.tail_tokens, " own tokens of ", size.prompt_tokens, " in its prompt");
  PICERT_CHECK(size.kv_tokens >= 0, "job ", id, " keeps ", size.kv_tokens, " tokens in memory");
  Job job;
  job.request = request;
  job.size = size;
  job.since = now;
  const bool by_length = discipline_ == Discipline::kShortestFirst;
  job.key = {goes_first ? 0 : 1, by_length ? size.tokens : 0, next_arrival_++};
  job.list = list_of(size.tokens);
  job.avoid = std::move(avoid);
  enqueue(id, job);
  ++requests_[request].num_jobs;
  jobs_.emplace(id, std::move(job));
}

bool DispatchLists::remove(JobId id) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return false;
  const Job& job = found->second;
  if (job.edge == kNoEdge) {
    dequeue(id, job);
  } else {
    stop(id, job);
  }
  const RequestId request = job.request;
  jobs_.erase(found);
  forget(request);
  return true;
}

int32_t DispatchLists::recount(JobId id, int32_t written, double now) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end() || found->second.edge == kNoEdge) return 0;
  Job& job = found->second;
  const auto bound = std::lower_bound(kBounds.begin(), kBounds.end(), std::max(written, 0) + 1);
  job.size.tokens = bound != kBounds.end() ? *bound : 2 * written;
  edges_[job.edge].recount(id, job.size.tokens - written, now);
  ++counters_.overruns;
  return job.size.tokens;
}

int32_t DispatchLists::list_of(int32_t tokens) const {
  if (discipline_ != Discipline::kLists) return 0;
  return static_cast<int32_t>(std::lower_bound(kBounds.begin(), kBounds.end(), tokens) - kBounds.begin());
}

void DispatchLists::enqueue(JobId id, const Job& job) {
  lists_[job.list].jobs.emplace(job.key, id);
  lists_[job.list].tokens += job.size.tokens;
  ++num_waiting_;
}

void DispatchLists::dequeue(JobId id, const Job& job) {
  lists_[job.list].jobs.erase({job.key, id});
  lists_[job.list].tokens -= job.size.tokens;
  --num_waiting_;
}

void DispatchLists::start(JobId id, EdgeId edge_id, double now) {
  Job& job = jobs_.at(id);
  dequeue(id, job);
  job.edge = edge_id;
  edges_[edge_id].start(id, job.size, read_tokens(job, edge_id), next_pull_, now);
  --num_free_;
  std::vector<EdgeId>& readers = requests_.at(job.request).edges;
  if (!holds(readers, edge_id)) readers.push_back(edge_id);
}

void DispatchLists::stop(JobId id, const Job& job) {
  EdgeAccount& edge = edges_[job.edge];
  edge.stop(id, job.size);
  if (edge.is_available) ++num_free_;
}

// One job of the request less.
void DispatchLists::forget(RequestId request) {
  const auto found = requests_.find(request);
  if (--found->second.num_jobs == 0) requests_.erase(found);
}

// --- what there is ---

double DispatchLists::backlog_s(double now) const {
  double waiting = 0.0;
  for (const List& list : lists_) waiting += static_cast<double>(list.tokens);
  double tokens_per_s = 0.0;
  double first_s = std::numeric_limits<double>::infinity();
  for (const EdgeAccount& edge : edges_) {
    if (!edge.is_available) continue;
    tokens_per_s += edge.tokens_per_s();
    first_s = std::min(first_s, edge.free_in_s(now));
  }
  return tokens_per_s > 0 ? first_s + waiting / tokens_per_s : std::numeric_limits<double>::infinity();
}

double DispatchLists::tokens_per_s() const {
  if (!tokens_per_s_) {
    tokens_per_s_ = 0.0;
    for (const EdgeAccount& edge : edges_) {
      if (edge.is_available) *tokens_per_s_ += edge.tokens_per_s();
    }
  }
  return *tokens_per_s_;
}

double DispatchLists::others_tokens_per_s(EdgeId edge) const {
  const double own = at(edge).is_available ? at(edge).tokens_per_s() : 0.0;
  return std::max(0.0, tokens_per_s() - own);
}

std::vector<EdgeId> DispatchLists::least_loaded(int32_t limit) const {
  using Rank = std::tuple<double, double, EdgeId>;  // a max-heap of the best so far
  std::vector<Rank> best;
  for (EdgeId id = 0; limit > 0 && id < static_cast<EdgeId>(edges_.size()); ++id) {
    const EdgeAccount& edge = edges_[id];
    if (!edge.is_available) continue;
    const Rank rank{static_cast<double>(edge.num_running()) / edge.slots(), edge.one_step_s(), id};
    if (static_cast<int32_t>(best.size()) == limit) {
      if (rank >= best.front()) continue;
      std::pop_heap(best.begin(), best.end());
      best.pop_back();
    }
    best.push_back(rank);
    std::push_heap(best.begin(), best.end());
  }
  std::sort_heap(best.begin(), best.end());
  std::vector<EdgeId> ids;
  for (const Rank& rank : best) ids.push_back(std::get<2>(rank));
  return ids;
}

double DispatchLists::share_of_speed(const std::vector<EdgeId>& edges) const {
  double own = 0.0;
  for (const EdgeId id : edges) {
    if (at(id).is_available) own += at(id).tokens_per_s();
  }
  return own > 0 ? std::min(1.0, own / tokens_per_s()) : 0.0;
}

std::array<int64_t, DispatchLists::kNumLists> DispatchLists::waiting_tokens() const {
  std::array<int64_t, kNumLists> tokens{};
  for (int32_t list = 0; list < kNumLists; ++list) tokens[list] = lists_[list].tokens;
  return tokens;
}

std::array<int64_t, DispatchLists::kNumLists> DispatchLists::waiting_jobs() const {
  std::array<int64_t, kNumLists> counts{};
  for (int32_t list = 0; list < kNumLists; ++list)
    counts[list] = static_cast<int64_t>(lists_[list].jobs.size());
  return counts;
}

void DispatchLists::self_check() const {
  std::vector<int64_t> kv_held(edges_.size());
  std::vector<int32_t> num_running(edges_.size());
  std::array<int64_t, kNumLists> tokens{};
  std::unordered_map<RequestId, int32_t> num_jobs;
  int32_t num_waiting = 0;
  for (const auto& [id, job] : jobs_) {
    ++num_jobs[job.request];
    if (job.edge != kNoEdge) {
      kv_held[job.edge] += job.size.kv_tokens;
      ++num_running[job.edge];
      expect(holds(edges_[job.edge].running(), id), "a job does not run where it says");
      expect(holds(requests_.at(job.request).edges, job.edge), "an edge writes without having read");
      continue;
    }
    expect(lists_[job.list].jobs.count({job.key, id}) == 1, "a waiting job is not in its list");
    tokens[job.list] += job.size.tokens;
    ++num_waiting;
  }
  expect(num_waiting == num_waiting_, "the count of waiting jobs is wrong");
  expect(tokens == waiting_tokens(), "the count of a list's tokens is wrong");
  size_t num_listed = 0;
  for (const List& list : lists_) num_listed += list.jobs.size();
  expect(num_listed == static_cast<size_t>(num_waiting_), "a list holds a job that does not wait");
  expect(num_jobs.size() == requests_.size(), "a request without jobs is kept");
  for (const auto& [id, request] : requests_) {
    expect(request.num_jobs == num_jobs[id], "the count of a request's jobs is wrong");
  }
  int32_t num_slots = 0;
  int32_t num_free = 0;
  for (size_t id = 0; id < edges_.size(); ++id) {
    const EdgeAccount& edge = edges_[id];
    expect(edge.num_running() == num_running[id], "an edge runs a job that is not known");
    edge.self_check(kv_held[id]);
    if (!edge.is_available) continue;
    num_slots += edge.slots();
    num_free += edge.slots() - edge.num_running();
  }
  expect(num_slots == num_slots_ && num_free == num_free_, "the count of places is wrong");
}

}  // namespace picert::sched
