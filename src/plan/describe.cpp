// The text of `idistill_mpi plan`.

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "idistill/base/text.hpp"
#include "idistill/plan/plan.hpp"

namespace idistill::plan {
namespace {

std::string shown_time(double seconds) {
    if (seconds < 1.0) return "under 1 s";
    if (seconds < 120.0) return fmt::format("{:.0f} s", seconds);
    if (seconds < 7200.0) return fmt::format("{:.0f} min", seconds / 60.0);
    return fmt::format("{:.1f} h", seconds / 3600.0);
}

double largest_unit(const Stage& stage) {
    double largest = 0.0;
    for (const auto& unit : stage.units) largest = std::max(largest, unit.flops);
    return largest;
}

/// A stage, and each of its repeats, lasts at least as long as its largest unit, however many ranks there are.
double stage_seconds(const Stage& stage, int ranks, double flops_per_second) {
    const auto repeats = static_cast<double>(stage.repeats);
    return repeats * std::max(stage.flops() / repeats / ranks, largest_unit(stage)) / flops_per_second;
}

std::string stage_table(const Plan& plan, int ranks) {
    auto text = fmt::format("  {:<16} {:>12} {:>9} {:>13} {:>13} {:>12}\n", "stage", "samples", "units", "largest FLOP",
                            "FLOP", "time");
    const double rate = plan.gpu ? plan.gpu->flops_per_second : assumed_flops_per_second;
    double seconds = 0.0;
    std::size_t units = 0;
    for (const auto& stage : plan.stages) {
        const double own = stage_seconds(stage, ranks, rate);
        const auto title = stage.title + (stage.at_most ? ", at most" : "");
        const auto count = stage.repeats > 1 ? fmt::format("{} x {}", stage.repeats, stage.units.size())
                                             : std::to_string(stage.units.size());
        text += fmt::format("  {:<16} {:>12} {:>9} {:>13.3g} {:>13.3g} {:>12}\n", title, stage.places(), count,
                            largest_unit(stage), stage.flops(), shown_time(own));
        seconds += own;
        units = std::max(units, stage.units.size());
    }
    text +=
        fmt::format("  together about {} with {} rank{}, assuming {:.0f} GFLOP/s a rank ({})\n", shown_time(seconds),
                    ranks, ranks == 1 ? "" : "s", rate / 1e9,
                    plan.gpu ? "a share of its GPU's products of matrices, measured now" : "jobs/bench.sh measures it");
    if (units < static_cast<std::size_t>(ranks))
        text += fmt::format("  no stage has more than {} work unit{}: further ranks would idle\n", units,
                            units == 1 ? "" : "s");
    return text;
}

std::string bytes_line(const std::string& name, double bytes, const std::string& note = {}) {
    return fmt::format("  {:<34} {:>10}{}{}\n", name, shown_bytes(bytes), note.empty() ? "" : "   ", note);
}

std::string against(const std::optional<double>& available, double needed) {
    if (!available) return "free: unknown";
    return fmt::format("of {} free{}", shown_bytes(*available), needed > *available ? ": TOO LITTLE" : "");
}

/// As the table of stages calls it.
std::string title_of(const Plan& plan, const std::string& moment) {
    const auto* stage = plan.find(moment);
    return stage == nullptr ? moment : stage->title;
}

/// Needs of one name are held one after the other: the largest, and where that is.
std::string need_lines(const Plan& plan, int ranks, bool on_gpu) {
    struct Line {
        std::string what;
        double bytes;
        std::string held;
    };
    std::vector<Line> lines;
    for (const auto& need : plan.needs) {
        if (on_gpu != (plan.gpu && need.on_gpu)) continue;
        const double bytes = need.per_rank + need.over_ranks / ranks;
        auto line = std::find_if(lines.begin(), lines.end(), [&](const Line& l) { return l.what == need.what; });
        if (line == lines.end()) line = lines.insert(lines.end(), {need.what, 0.0, {}});
        if (bytes <= line->bytes) continue;
        line->bytes = bytes;
        line->held = need.during.empty() ? "" : "during: " + title_of(plan, need.during.front());
    }
    auto text = on_gpu ? bytes_line("working memory", gpu_working_bytes)
                       : bytes_line("program and libraries", process_bytes + (plan.gpu ? gpu_process_bytes : 0.0));
    for (const auto& line : lines)
        if (line.bytes > 0.0) text += bytes_line(line.what, line.bytes, line.held);
    return text;
}

std::string memory_lines(const Plan& plan, const RankLayout& layout, const MachineFacts& facts) {
    const auto fullest = plan.fullest(layout);
    std::string text;
    if (plan.gpu)
        text += "Memory of one " + plan.gpu->name + "\n" + need_lines(plan, layout.ranks, true) +
                bytes_line("together", plan.bytes_on_gpu(),
                           against(plan.gpu->free_bytes, plan.bytes_on_gpu()) + ", " + shown_bytes(plan.gpu->bytes) +
                               " in all");
    text += "Memory of one rank\n" + need_lines(plan, layout.ranks, false);
    text += bytes_line("together", plan.bytes_per_rank(layout.ranks),
                       "the most at a time" + (fullest.empty() ? "" : ", in: " + title_of(plan, fullest)));
    text += fmt::format("Memory of one node with {} rank{}\n", layout.per_node, layout.per_node == 1 ? "" : "s");
    auto shared = against(facts.free_shared_memory_bytes, plan.shared_bytes_per_node());
    for (const auto& need : plan.needs) {
        if (need.per_node == 0.0) continue;
        text += bytes_line(need.what, need.per_node, shared);
        shared.clear();
    }
    const auto of_rank_0 = std::max_element(plan.needs.begin(), plan.needs.end(),
                                            [](const auto& a, const auto& b) { return a.on_rank_0 < b.on_rank_0; });
    if (const double beyond = plan.bytes_on_rank_0(layout.ranks); beyond > 0.0)
        text += bytes_line(of_rank_0->what + ", on the node of rank 0", beyond);
    const double node = plan.bytes_per_node(layout);
    text += bytes_line("together", node, against(facts.free_memory_bytes, node));
    text += "Disk\n" + bytes_line("state, until the result is there", plan.state_bytes()) +
            bytes_line("result", plan.result_bytes()) +
            bytes_line("together", plan.disk_bytes(), against(facts.free_disk_bytes, plan.disk_bytes()));
    return text;
}

}  // namespace

std::string describe(const Plan& plan, const RankLayout& layout, const MachineFacts& facts) {
    std::string text = "Plan\n";
    for (const auto& note : plan.notes) text += "  " + note + "\n";
    text += "Work\n" + stage_table(plan, layout.ranks) + memory_lines(plan, layout, facts);
    const auto missing = shortfalls(plan, layout, facts);
    if (missing.empty()) return text + "This run fits.\n";
    text += "This run does not fit:\n";
    for (const auto& one : missing)
        text += fmt::format("  {}: needs {}, {} free. {}\n", one.what, shown_bytes(one.needed),
                            shown_bytes(one.available), one.remedy);
    return text;
}

}  // namespace idistill::plan
