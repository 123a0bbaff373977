#include "idistill/plan/plan.hpp"

#include <algorithm>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/base/text.hpp"

namespace idistill::plan {
namespace {

// Beside the rows of its datasets: what HDF5 keeps of a file with its attributes, of a group and of a dataset
// (measured).
constexpr double file_overhead_bytes = 5300.0;
constexpr double group_overhead_bytes = 1100.0;
constexpr double dataset_overhead_bytes = 340.0;

bool contains(const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

/// What to turn down: what is behind the largest share of a node's memory where it is fullest.
std::string memory_remedy(const Plan& plan, const RankLayout& layout) {
    std::vector<std::pair<std::string, double>> shares;
    const auto fullest = plan.fullest(layout);
    for (const auto& need : plan.needs) {
        if (need.remedy.empty() || !need.held_in(fullest)) continue;
        const double bytes = layout.per_node * (need.per_rank + need.over_ranks / layout.ranks) + need.on_rank_0;
        const auto same = std::find_if(shares.begin(), shares.end(), [&](auto& s) { return s.first == need.remedy; });
        if (same == shares.end())
            shares.emplace_back(need.remedy, bytes);
        else
            same->second += bytes;
    }
    const auto most = std::max_element(shares.begin(), shares.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
    const std::string change = most == shares.end() ? "" : most->first;
    if (layout.per_node > 1) return "Start fewer ranks on a node" + (change.empty() ? "." : ", or use " + change + ".");
    return change.empty() ? "Use a machine with more memory." : "Use " + change + ".";
}

/// The same for what takes most of a GPU's.
std::string gpu_remedy(const Plan& plan) {
    if (plan.bytes_on_gpu() <= plan.gpu->bytes) return "Leave the GPU to this run alone.";
    const Need* most = nullptr;
    for (const auto& need : plan.needs)
        if (need.on_gpu && !need.remedy.empty() && (most == nullptr || need.per_rank > most->per_rank)) most = &need;
    return most == nullptr ? "Use GPUs with more memory." : "Use " + most->remedy + ", or GPUs with more memory.";
}

}  // namespace

const Stage* Plan::find(std::string_view name) const {
    const auto found = std::find_if(stages.begin(), stages.end(), [name](const Stage& s) { return s.name == name; });
    return found == stages.end() ? nullptr : &*found;
}

const Stage& Plan::stage(std::string_view name) const {
    if (const auto* found = find(name)) return *found;
    throw Error(ExitCode::internal_error,
                {"plan", std::string(name), "a stage of this run", "none", "This is a defect of idistill."});
}

bool Need::held_in(const std::string& stage) const {
    return (during.empty() || contains(during, stage)) && !contains(except, stage);
}

void Plan::add_pass(const std::string& stage, const PassBytes& pass, double unit_bytes) {
    constexpr double planned_number_bytes = 4.0;
    needs.push_back(
        {.what = "activations of a micro-batch",
         .per_rank = gpu ? pass.activations * gpu->number_bytes / planned_number_bytes + pass.fp32 : pass.together(),
         .remedy = "smaller --batch-tokens",
         .during = {stage},
         .on_gpu = true});
    needs.push_back(
        {.what = "rows of a unit", .per_rank = unit_bytes, .remedy = "smaller --unit-flops", .during = {stage}});
}

std::uint64_t Plan::hash() const {
    Hash hash = decisions;
    for (const auto& stage : stages) {
        hash.add(stage.name);
        for (const auto& column : stage.columns) {
            hash.add(column.name);
            hash.add(column.width);
        }
        hash.add(stage.keeps);
        hash.add(stage.kept_rows);
        hash.add(stage.repeats);
        hash.add(stage.units.size());
        for (const auto& unit : stage.units) {
            hash.add(unit.rows.first);
            hash.add(unit.rows.count);
            hash.add(unit.flops);
        }
    }
    return hash.value();
}

std::vector<std::string> Plan::moments() const {
    std::vector<std::string> names{""};
    const auto add = [&names](const std::string& name) {
        if (!contains(names, name)) names.push_back(name);
    };
    for (const auto& stage : stages) add(stage.name);
    for (const auto& need : needs) std::for_each(need.during.begin(), need.during.end(), add);
    return names;
}

double Plan::held(const std::string& moment, int ranks) const {
    double sum = 0.0;
    for (const auto& need : needs)
        if (need.held_in(moment)) sum += (gpu && need.on_gpu ? 0.0 : need.per_rank) + need.over_ranks / ranks;
    return sum;
}

double Plan::bytes_on_gpu() const {
    if (!gpu) return 0.0;
    double most = 0.0;
    for (const auto& moment : moments()) {
        double sum = gpu_working_bytes;
        for (const auto& need : needs)
            if (need.on_gpu && need.held_in(moment)) sum += need.per_rank;
        most = std::max(most, sum);
    }
    return most;
}

double Plan::held_by_rank_0(const std::string& moment) const {
    double sum = 0.0;
    for (const auto& need : needs)
        if (need.held_in(moment)) sum += need.on_rank_0;
    return sum;
}

std::string Plan::fullest(const RankLayout& layout) const {
    std::string found;
    double most = 0.0;
    for (const auto& moment : moments()) {
        const double bytes = layout.per_node * held(moment, layout.ranks) + held_by_rank_0(moment);
        if (bytes > most) found = moment;
        most = std::max(most, bytes);
    }
    return found;
}

double Plan::with_process(double held_bytes) const {
    return process_bytes + (gpu ? gpu_process_bytes : 0.0) + heap_factor * held_bytes;
}

double Plan::bytes_per_rank(int ranks) const {
    double most = 0.0;
    for (const auto& moment : moments()) most = std::max(most, held(moment, ranks));
    return with_process(most);
}

double Plan::shared_bytes_per_node() const {
    double sum = 0.0;
    for (const auto& need : needs) sum += need.per_node;
    return sum;
}

double Plan::bytes_on_rank_0(int ranks) const {
    double most = 0.0;
    for (const auto& moment : moments()) most = std::max(most, held(moment, ranks) + held_by_rank_0(moment));
    return with_process(most) - bytes_per_rank(ranks);
}

double Plan::bytes_per_node(const RankLayout& layout) const {
    return shared_bytes_per_node() + layout.per_node * bytes_per_rank(layout.ranks) + bytes_on_rank_0(layout.ranks);
}

double Plan::state_bytes() const {
    double sum = file_overhead_bytes;
    for (const auto& stage : stages) {
        if (stage.columns.empty()) continue;
        sum += stage.stored_bytes() + group_overhead_bytes +
               dataset_overhead_bytes * static_cast<double>(stage.columns.size() + 2);
    }
    return sum;
}

double Plan::result_bytes() const {
    double sum = file_overhead_bytes;
    std::vector<std::string> groups;
    for (const auto& dataset : result) {
        sum += static_cast<double>(dataset.rows) * dataset.row_bytes + dataset_overhead_bytes;
        for (auto end = dataset.name.find('/', 1); end != std::string::npos; end = dataset.name.find('/', end + 1))
            if (auto group = dataset.name.substr(0, end); !contains(groups, group)) groups.push_back(std::move(group));
    }
    return sum + group_overhead_bytes * static_cast<double>(groups.size());
}

std::vector<Shortfall> shortfalls(const Plan& plan, const RankLayout& layout, const MachineFacts& facts) {
    std::vector<Shortfall> found;
    const auto compare = [&found](const std::string& what, double needed, const std::optional<double>& available,
                                  const std::string& remedy) {
        if (available && needed > *available) found.push_back({what, needed, *available, remedy});
    };
    compare("memory of a node", plan.bytes_per_node(layout), facts.free_memory_bytes, memory_remedy(plan, layout));
    if (layout.per_node > 1)  // a rank that has a node to itself needs no shared memory
        compare("/dev/shm", plan.shared_bytes_per_node(), facts.free_shared_memory_bytes,
                "Make /dev/shm larger (in a container: --shm-size), as the ranks of a node share one copy of the "
                "weights there, or run one rank a node.");
    if (plan.gpu) compare("memory of a GPU", plan.bytes_on_gpu(), plan.gpu->free_bytes, gpu_remedy(plan));
    compare("disk", plan.disk_bytes(), facts.free_disk_bytes,
            "Give --out a place on a larger disk" + plan.disk_remedy + ".");
    return found;
}

void check_fits(const Plan& plan, const RankLayout& layout, const MachineFacts& facts) {
    for (const auto& shortfall : shortfalls(plan, layout, facts))
        throw Error(ExitCode::too_large, {"plan", shortfall.what, "at least " + shown_bytes(shortfall.needed) + " free",
                                          shown_bytes(shortfall.available), shortfall.remedy});
}

}  // namespace idistill::plan
