// dispatch_lists.h: jobs that wait for an edge, edges with places for them, and which job goes where next.
//
// It knows numbers, not text: lengths in tokens, seconds by a clock that the caller passes in, edges and jobs
// by id. A job takes one place of its edge until it is removed. Rules of Discipline::lists:
//   1. Jobs wait in lists by predicted length (up to 32, 64, 128, 256 tokens, longer), in order of arrival. A
//      pull fills places of one edge from one list: that of a job which lost its edge, else that of the
//      oldest job over the aging bound, else the one with the most tokens waiting whose first job fits an
//      edge. When that list is empty, the edge's places left are filled from the nearest lists.
//   2. A job goes to the edge that is predicted to finish it first: link, reading (of the tail alone where
//      the edge has read the request's prompt already), then its tokens at the speed of one more sequence.
//   3. It goes nowhere if the edges whose places are all taken are predicted to finish all that waits by
//      then: an edge that would lengthen the answer gets no work, however idle.
//   4. Memory: a job fits where its K/V does beside what runs there, or where nothing runs. An old job that
//      fits nowhere is not overtaken.
//   5. A running job that passes its prediction is recounted; one that is overdue is taken to need as much
//      time again as it is late, so nobody waits for ever for an edge that hangs.
// The other disciplines are baselines: one queue in order of arrival or length; the edge longest unused, the
// next in turn, or the one with the smallest share of its places taken. They know no predictions.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "sched/edge_account.h"

namespace picert::sched {

using EdgeId = int32_t;
using RequestId = int64_t;

constexpr EdgeId kNoEdge = -1;

enum class Discipline { kLists, kFifo, kShortestFirst, kRoundRobin, kLeastLoaded };

struct DispatchCounters {
  int64_t pulls = 0;
  int64_t stolen = 0;  // jobs that filled an edge's places from another list than the pull's
  int64_t held = 0;    // times that a job was left waiting though an edge had a place for it
  int64_t overruns = 0;
};

struct Pull {
  EdgeId edge;
  std::vector<JobId> jobs;
};

class DispatchLists {
 public:
  static constexpr std::array<int32_t, 4> kBounds = {32, 64, 128, 256};
  static constexpr int32_t kNumLists = 5;

  DispatchLists(Discipline discipline, double aging_s);

  EdgeId add_edge(int32_t slots, int64_t kv_tokens, const EdgeSpeed& speed);
  void set_speed(EdgeId edge, const EdgeSpeed& speed);
  // May it be given jobs? An edge that may not keeps those it has.
  void set_available(EdgeId edge, bool is_available);
  // Forget an edge and every job that runs there.
  void remove_edge(EdgeId edge);

  // A job waits from `now`; `goes_first` for one that lost its edge. Edges in `avoid` get it only if no other
  // is available. Throws std::invalid_argument if the id is taken or a number cannot be true.
  void add(JobId id, RequestId request, const JobSize& size, double now, bool goes_first,
           std::vector<EdgeId> avoid);
  // Forget a job, waiting or running, and free its place; false if there is none.
  bool remove(JobId id);
  // A running job has passed its predicted length and has `written` tokens: predict anew. Returns the new
  // length; 0 for a job that does not run.
  int32_t recount(JobId id, int32_t written, double now);
  // The next batch for an edge, now running there, or none.
  std::optional<Pull> pull(double now);

  // Seconds until the edges could begin another job of average length: what waits and runs over what they do.
  double backlog_s(double now) const;
  // Seconds until what runs at an edge is done, as a mean over its places.
  double running_s(EdgeId edge, double now) const { return at(edge).running_s(now); }
  // What all available edges but one write with every place taken.
  double others_tokens_per_s(EdgeId edge) const;
  // The available edges with the smallest share of their places taken, of equals the fastest; at most
  // `limit`.
  std::vector<EdgeId> least_loaded(int32_t limit) const;
  // Of what all available edges write with every place taken, the share that these do.
  double share_of_speed(const std::vector<EdgeId>& edges) const;
  int32_t num_waiting() const { return num_waiting_; }
  int32_t num_running(EdgeId edge) const { return at(edge).num_running(); }
  int32_t num_slots() const { return num_slots_; }  // of available edges
  int32_t num_free() const { return num_free_; }    // of those, free
  int32_t num_requests() const { return static_cast<int32_t>(requests_.size()); }
  std::array<int64_t, kNumLists> waiting_tokens() const;  // by list; a baseline has one
  std::array<int64_t, kNumLists> waiting_jobs() const;
  const DispatchCounters& counters() const { return counters_; }

  // Throws std::logic_error unless recomputing every list and count gives what is kept.
  void self_check() const;

 private:
  // First those that lost their edge, then by length where that is the discipline, then by arrival.
  using Key = std::tuple<int32_t, int32_t, int64_t>;

  struct Job {
    RequestId request;
    JobSize size;
    double since;
    Key key;
    int32_t list;
    EdgeId edge = kNoEdge;  // kNoEdge: it waits
    std::vector<EdgeId> avoid;
  };
  struct Request {
    int32_t num_jobs = 0;
    std::vector<EdgeId> edges;  // that have read its prompt
  };
  struct List {
    std::set<std::pair<Key, JobId>> jobs;
    int64_t tokens = 0;
  };
  struct Choice {
    EdgeId edge = kNoEdge;
    double finish_s = 0.0;      // from now
    bool lacks_memory = false;  // some edge has a place for the job, but not the memory
  };
  struct Order {
    std::array<int32_t, kNumLists> lists;
    int32_t size = 0;
    int32_t num_urgent = 0;  // the first ones, whose first job lost its edge or is old
  };

  const EdgeAccount& at(EdgeId edge) const;
  double tokens_per_s() const;
  int32_t list_of(int32_t tokens) const;
  void count_places(const EdgeAccount& edge, int32_t sign);
  void enqueue(JobId id, const Job& job);
  void dequeue(JobId id, const Job& job);
  void start(JobId id, EdgeId edge, double now);
  void stop(JobId id, const Job& job);
  void forget(RequestId request);

  std::optional<Pull> pull_lists(double now);
  std::optional<Pull> pull_baseline(double now);
  Order order_of_lists(double now) const;
  Choice earliest(const Job& job, double now) const;
  bool should_wait(const Job& job, const Choice& choice, double now) const;
  void fill(Pull& pull, int32_t list, double now);
  bool take_first(Pull& pull, int32_t list, double now);
  bool may_take(const Job& job, EdgeId edge, bool can_avoid) const;
  bool can_avoid(const Job& job) const;
  EdgeId baseline_edge(const Job& job) const;
  int32_t read_tokens(const Job& job, EdgeId edge) const;

  Discipline discipline_;
  double aging_s_;
  std::vector<EdgeAccount> edges_;
  std::vector<EdgeId> unused_;  // ids of removed edges
  std::unordered_map<JobId, Job> jobs_;
  std::unordered_map<RequestId, Request> requests_;
  std::array<List, kNumLists> lists_;
  int32_t num_waiting_ = 0;
  int32_t num_slots_ = 0;
  int32_t num_free_ = 0;
  mutable std::optional<double> tokens_per_s_;  // of all available edges; none: to be added up anew
  int64_t next_arrival_ = 1;
  int64_t next_pull_ = 1;
  EdgeId last_turn_ = kNoEdge;  // round robin
  DispatchCounters counters_;
};

}  // namespace picert::sched
