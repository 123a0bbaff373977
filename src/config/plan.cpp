#include "idistill/config/plan.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <unordered_map>

#include "idistill/report/error.hpp"
#include "idistill/report/philox.hpp"
#include "stage_units.hpp"
#include "text.hpp"

namespace idistill::config {
namespace {

/// Why a row cannot be used, if it cannot.
std::optional<QuarantineReason> reason_against(const data::CorpusIndex& index, std::size_t row,
                                               std::int64_t max_length) {
    if (index.tokens[row] == 0) return QuarantineReason::empty;
    if (index.labels[row] > 0) return std::nullopt;
    const bool cut = max_length > 0 && index.tokens[row] == max_length;
    return cut ? QuarantineReason::no_labels_after_truncation : QuarantineReason::no_labels;
}

/// Calls visit(row, file) for every row of the corpus.
template <class Visit>
void for_each_row(const CorpusShape& corpus, Visit visit) {
    std::size_t row = 0;
    for (std::size_t file = 0; file < corpus.files.size(); ++file) {
        for (std::int64_t i = 0; i < corpus.files[file].rows; ++i) visit(row++, file);
    }
}

std::vector<Quarantined> quarantine(const CorpusShape& corpus) {
    std::vector<Quarantined> found;
    for_each_row(corpus, [&](std::size_t row, std::size_t file) {
        const auto reason = reason_against(corpus.index, row, corpus.files[file].max_length);
        if (reason) found.push_back({static_cast<std::int64_t>(row), *reason});
    });
    return found;
}

std::string counted(const std::vector<Quarantined>& rows) {
    std::map<QuarantineReason, std::int64_t> counts;
    for (const auto& row : rows) ++counts[row.reason];
    std::string text;
    for (const auto& [reason, count] : counts)
        text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + to_string(reason);
    return text.empty() ? "no samples" : text;
}

/// The first `count` of a uniformly random permutation of the rows with eligible != 0: Fisher-Yates whose array is
/// never made. Memory O(count + N / 4096).
class SeededPermutation {
public:
    SeededPermutation(std::span<const std::uint8_t> eligible, std::uint64_t seed, std::string_view purpose)
        : eligible_(eligible), random_(seed, purpose) {
        before_.push_back(0);
        for (std::size_t begin = 0; begin < eligible.size(); begin += block) {
            const auto part = eligible.subspan(begin, std::min(block, eligible.size() - begin));
            before_.push_back(before_.back() + std::accumulate(part.begin(), part.end(), std::int64_t{0}));
        }
    }

    std::vector<std::int64_t> first(std::int64_t count) {
        std::unordered_map<std::int64_t, std::int64_t> moved;  // position -> what a swap put there
        const auto at = [&moved](std::int64_t position) {
            const auto found = moved.find(position);
            return found == moved.end() ? position : found->second;
        };
        std::vector<std::int64_t> rows;
        for (std::int64_t i = 0; i < count; ++i) {
            const auto left = static_cast<std::uint64_t>(before_.back() - i);
            const std::int64_t j = i + static_cast<std::int64_t>(random_.below(left, static_cast<std::uint64_t>(i), 0));
            rows.push_back(row(at(j)));
            moved[j] = at(i);
        }
        return rows;
    }

private:
    static constexpr std::size_t block = 4096;

    /// The row of the eligible row number `ordinal`.
    [[nodiscard]] std::int64_t row(std::int64_t ordinal) const {
        const auto after = std::upper_bound(before_.begin(), before_.end(), ordinal);
        std::int64_t left = ordinal - *(after - 1);
        std::size_t row = static_cast<std::size_t>(after - 1 - before_.begin()) * block;
        for (;; ++row) {
            if (eligible_[row] != 0 && left-- == 0) return static_cast<std::int64_t>(row);
        }
    }

    std::span<const std::uint8_t> eligible_;
    Philox random_;
    std::vector<std::int64_t> before_;  ///< eligible rows before every block of rows, and all
};

void keep_targets(Plan& plan, const Settings& settings, const CorpusShape& targets) {
    plan.target_quarantine = quarantine(targets);
    auto next = plan.target_quarantine.begin();
    std::vector<std::int64_t> kept(settings.targets.size());
    for_each_row(targets, [&](std::size_t index, std::size_t task) {
        const auto row = static_cast<std::int64_t>(index);
        if (next != plan.target_quarantine.end() && next->row == row) {
            ++next;
            return;
        }
        plan.target_rows.push_back(row);
        plan.target_task.push_back(static_cast<std::int32_t>(task));
        ++kept[task];
    });
    for (std::size_t task = 0; task < kept.size(); ++task) {
        if (kept[task] > 0) continue;
        const auto& target = settings.targets[task];
        throw Error(ExitCode::bad_input, {target.path, "target " + target.name, "at least one sample with label tokens",
                                          "none among its " + std::to_string(targets.files[task].rows) + " samples",
                                          "Prepare it again with answers in it, or leave the target out."});
    }
}

void check_budget(const Settings& settings, const Plan& plan, const data::CorpusIndex& pool) {
    std::vector<std::int64_t> per_source(pool.source_names.size());
    for (std::size_t row = 0; row < plan.eligible.size(); ++row) {
        if (plan.eligible[row] != 0) ++per_source[static_cast<std::size_t>(pool.source[row])];
    }
    for (const auto& [source, cap] : source_caps(settings, pool.source_names)) {
        auto& count = per_source[static_cast<std::size_t>(source)];
        count = std::min(count, cap);
    }
    const std::int64_t selectable = std::accumulate(per_source.begin(), per_source.end(), std::int64_t{0});
    const std::int64_t wanted = settings.select_percent ? selected_count(*settings.select_percent, plan.pool_rows)
                                                        : settings.select_samples.value_or(0);
    if (wanted > selectable) {
        throw Error(ExitCode::usage,
                    {"--select",
                     {},
                     "at most " + std::to_string(selectable) + " samples, which are eligible" +
                         (settings.source_cap.empty() ? "" : " under the caps"),
                     std::to_string(wanted),
                     "Select fewer" + std::string(settings.source_cap.empty() ? "." : " or raise --source-cap.")});
    }
}

void choose_contrast_and_landmarks(Plan& plan, const Settings& settings) {
    const auto eligible = std::accumulate(plan.eligible.begin(), plan.eligible.end(), std::int64_t{0});
    plan.contrast_rows =
        SeededPermutation(plan.eligible, settings.seed, "contrast").first(std::min(settings.contrast, eligible));
    if (settings.propagation == "none") return;
    const auto most = settings.landmarks_auto ? most_auto_landmarks : default_landmarks;
    auto wanted = settings.landmarks.value_or(std::min(most, eligible));
    if (settings.landmarks_auto) {
        wanted = std::min(wanted, eligible);
        for (auto count = first_auto_landmarks; count < wanted; count *= 2) plan.landmark_counts.push_back(count);
    }
    plan.landmark_counts.push_back(wanted);
    if (wanted > eligible) {
        throw Error(ExitCode::usage,
                    {"--landmarks",
                     {},
                     "at most " + std::to_string(eligible) + ", the eligible samples of the pool",
                     std::to_string(wanted),
                     "Give fewer --landmarks, or compute every sample exactly with --propagation none."});
    }
    plan.landmarks = SeededPermutation(plan.eligible, settings.seed, "landmarks").first(wanted);
}

/// FNV-1a over the bytes of values and arrays; an array enters with its length.
class Hash {
public:
    template <class T>
    void add(const T& value) {
        static_assert(std::has_unique_object_representations_v<T> || std::is_floating_point_v<T>);
        const auto* bytes = reinterpret_cast<const unsigned char*>(&value);
        for (std::size_t i = 0; i < sizeof value; ++i) state_ = (state_ ^ bytes[i]) * 0x100000001b3ULL;
    }
    template <class T>
    void add(const std::vector<T>& values) {
        add(values.size());
        for (const T& value : values) add(value);
    }
    void add(const data::WorkUnit& unit) {
        add(unit.rows.first);
        add(unit.rows.count);
        add(unit.flops);
    }
    void add(const Quarantined& row) {
        add(row.row);
        add(row.reason);
    }
    [[nodiscard]] std::uint64_t value() const { return state_; }

private:
    std::uint64_t state_ = 0xcbf29ce484222325ULL;
};

std::uint64_t hash_of(const Plan& plan) {
    Hash hash;
    hash.add(plan.pool_rows);
    hash.add(plan.tasks);
    hash.add(plan.columns);
    hash.add(plan.curvature_columns);
    hash.add(plan.target_rows);
    hash.add(plan.target_task);
    hash.add(plan.contrast_rows);
    hash.add(plan.pool_quarantine);
    hash.add(plan.target_quarantine);
    hash.add(plan.eligible);
    hash.add(plan.landmarks);
    hash.add(plan.landmark_counts);
    hash.add(plan.target_units);
    hash.add(plan.direction_units);
    hash.add(plan.curvature_units);
    hash.add(plan.landmark_units);
    hash.add(plan.pool_units);
    hash.add(plan.refine_budget);
    hash.add(plan.refine_units);
    hash.add(plan.step_products);
    hash.add(plan.embedding_widths);
    hash.add(plan.sketch.side);
    hash.add(plan.sketch.width);
    hash.add(plan.direction_parameters);
    hash.add(plan.longest);
    hash.add(plan.most_labels);
    hash.add(plan.longest_id);
    return hash.value();
}

void check_files(const CorpusShape& corpus, const std::string& what) {
    std::int64_t rows = 0;
    for (const auto& file : corpus.files) rows += file.rows;
    if (rows == corpus.index.size()) return;
    throw Error(ExitCode::internal_error, {"plan", what, std::to_string(corpus.index.size()) + " rows in its files",
                                           std::to_string(rows), "This is a defect of idistill."});
}

void measure(Plan& plan, const data::CorpusIndex& index, std::int64_t row) {
    const auto place = static_cast<std::size_t>(row);
    plan.longest = std::max<std::int64_t>(plan.longest, index.tokens[place]);
    plan.most_labels = std::max<std::int64_t>(plan.most_labels, index.labels[place]);
}

void keep_pool(Plan& plan, const CorpusShape& pool) {
    plan.pool_rows = pool.index.size();
    plan.pool_quarantine = quarantine(pool);
    plan.eligible.assign(static_cast<std::size_t>(plan.pool_rows), 1);
    for (const auto& row : plan.pool_quarantine) plan.eligible[static_cast<std::size_t>(row.row)] = 0;
    if (static_cast<std::int64_t>(plan.pool_quarantine.size()) == plan.pool_rows) {
        throw Error(ExitCode::bad_input,
                    {"--pool",
                     {},
                     "at least one sample with label tokens",
                     counted(plan.pool_quarantine),
                     "Prepare the pool again: jobs/prepare.py reports how many samples have labels."});
    }
    for (std::int64_t row = 0; row < plan.pool_rows; ++row)
        if (plan.eligible[static_cast<std::size_t>(row)] != 0) measure(plan, pool.index, row);
}

void note_embeddings(Plan& plan, const CostModel& cost) {
    for (const auto& shape : cost.embeddings()) {
        plan.embedding_widths.push_back(shape.width());
        plan.embedding_width += shape.width();
    }
}

}  // namespace

std::string to_string(QuarantineReason reason) {
    switch (reason) {
        case QuarantineReason::empty:
            return "empty";
        case QuarantineReason::no_labels:
            return "no label tokens";
        case QuarantineReason::no_labels_after_truncation:
            return "no label tokens after truncation";
        case QuarantineReason::non_finite:
            break;
    }
    return "not finite";
}

std::int64_t selected_count(double percent, std::int64_t rows) {
    const double share = static_cast<double>(rows) * percent / 100.0;
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::floor(share + 0.5)));
}

Plan make_plan(const Settings& settings, const ModelConfig& model, const CorpusShape& pool,
               const CorpusShape& targets) {
    check_files(pool, "pool");
    check_files(targets, "targets");
    const CostModel cost(model, settings);
    Plan plan;
    plan.tasks = static_cast<std::int64_t>(settings.targets.size());
    keep_targets(plan, settings, targets);
    plan.columns = settings.columns == "tasks" ? plan.tasks : static_cast<std::int64_t>(plan.target_rows.size());

    keep_pool(plan, pool);
    check_budget(settings, plan, pool.index);
    choose_contrast_and_landmarks(plan, settings);
    const auto chosen = chosen_layers(model, settings.parameters);
    if (uses_hessian(settings)) plan.curvature_columns = settings.rank;
    if (!settings.optimizer.empty() && settings.columns == "samples") plan.step_products = 1;
    if (contracts_with_tasks(settings) || uses_hessian(settings)) {
        for (const auto& layer : chosen) plan.direction_parameters += layer.outputs * layer.inputs;
    }
    if (!contracts_with_tasks(settings)) plan.sketch = sketch_shape(settings, chosen);
    note_embeddings(plan, cost);
    for (const auto row : plan.target_rows) measure(plan, targets.index, row);
    plan.longest_id = pool.index.longest_id;
    cut_stages(plan, cost, settings, pool, targets);
    plan.hash = hash_of(plan);
    return plan;
}

Plan make_embedding_plan(const Settings& settings, const ModelConfig& model, const CorpusShape& pool) {
    check_files(pool, "pool");
    const CostModel cost(model, settings);
    Plan plan;
    keep_pool(plan, pool);
    note_embeddings(plan, cost);
    plan.longest_id = pool.index.longest_id;
    cut_embedding(plan, cost, settings, pool.index);
    plan.hash = hash_of(plan);
    return plan;
}

}  // namespace idistill::config
