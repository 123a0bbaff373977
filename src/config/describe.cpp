// The text of `idistill_mpi plan`.

#include <algorithm>
#include <cstdio>

#include "idistill/config/resources.hpp"
#include "text.hpp"

namespace idistill::config {
namespace {

template <class... Values>
std::string formatted(const char* format, Values... values) {
    char text[256];
    std::snprintf(text, sizeof text, format, values...);
    return text;
}

std::string shown_time(double seconds) {
    if (seconds < 1.0) return "under 1 s";
    if (seconds < 120.0) return formatted("%.0f s", seconds);
    if (seconds < 7200.0) return formatted("%.0f min", seconds / 60.0);
    return formatted("%.1f h", seconds / 3600.0);
}

/// A stage lasts at least as long as its largest unit, however many ranks there are.
double stage_seconds(const std::vector<data::WorkUnit>& units, double flops, int ranks) {
    double largest = 0.0;
    for (const auto& unit : units) largest = std::max(largest, unit.flops);
    return std::max(flops / ranks, largest) / assumed_flops_per_second;
}

std::string stage_line(const char* name, const std::vector<data::WorkUnit>& units, double flops, int ranks) {
    std::int64_t rows = 0;
    double largest = 0.0;
    for (const auto& unit : units) {
        rows += unit.rows.count;
        largest = std::max(largest, unit.flops);
    }
    return formatted("  %-16s %12lld %9zu %13.3g %13.3g %12s\n", name, static_cast<long long>(rows), units.size(),
                     largest, flops, shown_time(stage_seconds(units, flops, ranks)).c_str());
}

std::string stage_table(const Plan& plan, const Resources& need) {
    const int ranks = need.layout.ranks;
    const bool exact = plan.landmarks.empty();
    std::string text =
        formatted("  %-16s %12s %9s %13s %13s %12s\n", "stage", "samples", "units", "largest FLOP", "FLOP", "time");
    double seconds = stage_seconds(plan.target_units, need.target_flops, ranks) +
                     stage_seconds(plan.direction_units, need.direction_flops, ranks) +
                     stage_seconds(plan.curvature_units, need.curvature_flops, ranks) +
                     stage_seconds(plan.pool_units, need.pool_flops, ranks) +
                     stage_seconds(plan.refine_units, need.refine_flops, ranks);
    text += stage_line("label targets", plan.target_units, need.target_flops, ranks);
    if (!plan.direction_units.empty())
        text += stage_line("task gradients", plan.direction_units, need.direction_flops, ranks);
    if (!plan.curvature_units.empty())
        text += stage_line("curvature", plan.curvature_units, need.curvature_flops, ranks);
    if (!exact) {
        const double solve = need.solve_flops / assumed_flops_per_second;
        seconds += stage_seconds(plan.landmark_units, need.landmark_flops, ranks) + solve;
        text += stage_line("label landmarks", plan.landmark_units, need.landmark_flops, ranks);
        text += formatted("  %-16s %12zu %9s %13s %13.3g %12s\n", "solve (rank 0)", plan.landmarks.size(), "-", "-",
                          need.solve_flops, shown_time(solve).c_str());
    }
    text += stage_line(exact ? "label pool" : "propagate", plan.pool_units, need.pool_flops, ranks);
    if (!plan.refine_units.empty()) text += stage_line("refine, at most", plan.refine_units, need.refine_flops, ranks);
    text += formatted("  together about %s with %d rank%s, assuming %.0f GFLOP/s a rank (jobs/bench.sh measures it)\n",
                      shown_time(seconds).c_str(), ranks, ranks == 1 ? "" : "s", assumed_flops_per_second / 1e9);
    const std::size_t units = std::max({plan.pool_units.size(), plan.landmark_units.size(), plan.target_units.size()});
    if (units < static_cast<std::size_t>(ranks))
        text += formatted("  no stage has more than %zu work unit%s: further ranks would idle\n", units,
                          units == 1 ? "" : "s");
    return text;
}

std::string quarantine_lines(const char* what, const std::vector<Quarantined>& rows) {
    std::string text;
    for (const auto reason :
         {QuarantineReason::empty, QuarantineReason::no_labels, QuarantineReason::no_labels_after_truncation}) {
        const auto count =
            std::count_if(rows.begin(), rows.end(), [reason](const Quarantined& row) { return row.reason == reason; });
        if (count > 0)
            text += formatted("  %s quarantined: %lld, %s\n", what, static_cast<long long>(count),
                              to_string(reason).c_str());
    }
    return text;
}

std::string bytes_line(const char* name, double bytes, const std::string& note = {}) {
    std::string text = formatted("  %-34s %10s", name, shown_bytes(bytes).c_str());
    if (!note.empty()) text.append("   ").append(note);
    return text += '\n';
}

std::string against(const std::optional<double>& available, double needed) {
    if (!available) return "free: unknown";
    return formatted("of %s free%s", shown_bytes(*available).c_str(), needed > *available ? ": TOO LITTLE" : "");
}

std::string memory_lines(const Resources& need, const MachineFacts& facts) {
    std::string text = "Memory of one rank\n";
    text += bytes_line("program and libraries", need.process_bytes_per_rank);
    text += bytes_line("index of the pool", need.index_bytes_per_rank);
    text += bytes_line("activations of a micro-batch", need.activation_bytes_per_rank);
    text += bytes_line("sketches", need.sketch_bytes_per_rank);
    if (need.curvature_bytes_per_rank > 0)
        text += bytes_line("directions of the curvature", need.curvature_bytes_per_rank);
    text += bytes_line("directions of the embedding", need.embedding_bytes_per_rank);
    text += bytes_line("landmarks", need.landmark_bytes_per_rank);
    if (need.selection_bytes_per_rank > 0)
        text += bytes_line("influences, for the weights", need.selection_bytes_per_rank);
    text += bytes_line("together", need.bytes_per_rank());
    text +=
        formatted("Memory of one node with %d rank%s\n", need.layout.per_node, need.layout.per_node == 1 ? "" : "s");
    const std::string shared = against(facts.free_shared_memory_bytes, need.shared_bytes_per_node());
    text += bytes_line("weights, one copy, in /dev/shm", need.weight_bytes_per_node, shared);
    if (need.optimizer_bytes_per_node > 0.0)
        text += bytes_line("optimizer's factors, beside them", need.optimizer_bytes_per_node);
    text += bytes_line("solve, on the node of rank 0", need.solve_bytes_on_rank_0);
    text += bytes_line("together", need.bytes_per_node(), against(facts.free_memory_bytes, need.bytes_per_node()));
    text += "Disk\n";
    text += bytes_line("state, until the result is there", need.state_file_bytes);
    text += bytes_line("result", need.result_file_bytes);
    text += bytes_line("together", need.disk_bytes(), against(facts.free_disk_bytes, need.disk_bytes()));
    return text;
}

}  // namespace

std::string describe(const Settings& settings, const Plan& plan, const Resources& resources,
                     const MachineFacts& facts) {
    std::string text = "Plan\n";
    text +=
        formatted("  pool %lld samples, targets %zu samples in %lld task%s, %lld influence columns\n",
                  static_cast<long long>(plan.pool_rows), plan.target_rows.size(), static_cast<long long>(plan.tasks),
                  plan.tasks == 1 ? "" : "s", static_cast<long long>(plan.columns));
    if (!plan.contrast_rows.empty())
        text += formatted("  contrast with the mean gradient of %zu pool samples\n", plan.contrast_rows.size());
    if (!plan.landmarks.empty()) {
        const bool all = !settings.landmarks && plan.landmarks.size() < static_cast<std::size_t>(default_landmarks);
        const char* note = settings.landmarks_auto ? " at most (auto)" : all ? " (all eligible samples)" : "";
        text +=
            formatted("  landmarks %zu%s, embedding of %lld numbers, sketch of %lld numbers\n", plan.landmarks.size(),
                      note, static_cast<long long>(plan.embedding_width), static_cast<long long>(plan.sketch.width));
    }
    text += formatted("  longest sample %lld tokens\n", static_cast<long long>(plan.longest));
    text += quarantine_lines("pool", plan.pool_quarantine) + quarantine_lines("targets", plan.target_quarantine);
    text += "Work\n" + stage_table(plan, resources) + memory_lines(resources, facts);
    const auto missing = shortfalls(settings, resources, facts);
    if (missing.empty()) return text + "This run fits.\n";
    text += "This run does not fit:\n";
    for (const auto& one : missing) {
        text += formatted("  %s: needs %s, %s free. ", one.what.c_str(), shown_bytes(one.needed).c_str(),
                          shown_bytes(one.available).c_str());
        text += one.remedy + "\n";
    }
    return text;
}

}  // namespace idistill::config
