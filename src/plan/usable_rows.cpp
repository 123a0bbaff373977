#include "idistill/plan/usable_rows.hpp"

#include <algorithm>
#include <map>

#include "idistill/base/error.hpp"

namespace idistill::plan {
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
    auto next = corpus.left_out.begin();
    for_each_row(corpus, [&](std::size_t row, std::size_t file) {
        auto reason = reason_against(corpus.index, row, corpus.files[file].max_length);
        for (; next != corpus.left_out.end() && next->row == static_cast<std::int64_t>(row); ++next)
            if (!reason) reason = next->reason;
        if (reason) found.push_back({static_cast<std::int64_t>(row), *reason});
    });
    return found;
}

void check_files(const CorpusShape& corpus, const std::string& what) {
    std::int64_t rows = 0;
    for (const auto& file : corpus.files) rows += file.rows;
    if (rows == corpus.index.size()) return;
    throw Error(ExitCode::internal_error, {"plan", what, std::to_string(corpus.index.size()) + " rows in its files",
                                           std::to_string(rows), "This is a defect of idistill."});
}

void measure(UsableRows& usable, const data::CorpusIndex& index, std::int64_t row) {
    const auto place = static_cast<std::size_t>(row);
    usable.longest = std::max<std::int64_t>(usable.longest, index.tokens[place]);
    usable.most_labels = std::max<std::int64_t>(usable.most_labels, index.labels[place]);
}

std::map<QuarantineReason, std::int64_t> counts_of(const std::vector<Quarantined>& rows) {
    std::map<QuarantineReason, std::int64_t> counts;
    for (const auto& row : rows) ++counts[row.reason];
    return counts;
}

QuarantineReason most_common(const std::vector<Quarantined>& rows) {
    const auto counts = counts_of(rows);
    const auto most = std::ranges::max_element(counts, {}, [](const auto& of) { return of.second; });
    return most == counts.end() ? QuarantineReason::empty : most->first;
}

/// Of samples none of which is usable.
std::string remedy_for(const std::vector<Quarantined>& left_out) {
    switch (most_common(left_out)) {
        case QuarantineReason::of_a_target:
            return "Give other targets or another pool, or leave --drop-overlap out.";
        case QuarantineReason::too_long_to_rate:
            return "Rate with a model that reads more tokens, or give another pool.";
        case QuarantineReason::not_joined:
            return "Prepare them with a chat template that joins conversations, or take another --influence.";
        case QuarantineReason::too_long_to_join:
            return "Give a larger --max-context, prepare them with a smaller --max-length, or take a model that reads "
                   "more tokens.";
        default:
            return "Prepare them again: jobs/prepare.py reports how many samples have labels.";
    }
}

void keep_targets(UsableRows& usable, const CorpusShape& targets, const std::vector<TaskFile>& tasks) {
    usable.tasks = std::ssize(tasks);
    for (const auto& task : tasks) usable.task_names.push_back(task.name);
    usable.target_quarantine = quarantine(targets);
    auto next = usable.target_quarantine.begin();
    std::vector<std::int64_t> kept(tasks.size());
    std::vector<std::vector<Quarantined>> left_out(tasks.size());
    for_each_row(targets, [&](std::size_t index, std::size_t task) {
        const auto row = static_cast<std::int64_t>(index);
        if (next != usable.target_quarantine.end() && next->row == row) {
            left_out[task].push_back(*next++);
            return;
        }
        usable.target_rows.push_back(row);
        usable.target_task.push_back(static_cast<std::int32_t>(task));
        measure(usable, targets.index, row);
        ++kept[task];
    });
    for (std::size_t task = 0; task < kept.size(); ++task) {
        if (kept[task] > 0) continue;
        const auto& own = left_out[task];
        throw Error(ExitCode::bad_input,
                    {tasks[task].path, "target " + tasks[task].name, "at least one sample that can be used",
                     "none among its " + std::to_string(targets.files[task].rows) + " samples: " + counted(own),
                     remedy_for(own) + " Or leave the target out."});
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
        case QuarantineReason::of_a_target:
            return "also of a target";
        case QuarantineReason::too_long_to_rate:
            return "too long to be rated";
        case QuarantineReason::not_joined:
            return "cannot be joined to others";
        case QuarantineReason::too_long_to_join:
            return "too long to be joined to others";
        case QuarantineReason::non_finite:
            break;
    }
    return "not finite";
}

std::string counted(const std::vector<Quarantined>& rows) {
    std::string text;
    for (const auto& [reason, count] : counts_of(rows))
        text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + to_string(reason);
    return text.empty() ? "no samples" : text;
}

void UsableRows::add_to(Hash& hash) const {
    hash.add(pool_rows);
    hash.add(eligible);
    hash.add(tasks);
    hash.add(target_rows);
    hash.add(target_task);
    for (const auto* rows : {&pool_quarantine, &target_quarantine}) {
        hash.add(rows->size());
        for (const auto& [row, reason] : *rows) {
            hash.add(row);
            hash.add(reason);
        }
    }
    hash.add(longest);
    hash.add(most_labels);
}

UsableRows usable_pool(const CorpusShape& pool) {
    check_files(pool, "pool");
    UsableRows usable;
    usable.pool_rows = pool.index.size();
    usable.pool_quarantine = quarantine(pool);
    usable.eligible_rows = usable.pool_rows - std::ssize(usable.pool_quarantine);
    usable.eligible.assign(static_cast<std::size_t>(usable.pool_rows), 1);
    for (const auto& row : usable.pool_quarantine) usable.eligible[static_cast<std::size_t>(row.row)] = 0;
    if (usable.eligible_rows == 0)
        throw Error(ExitCode::bad_input, {"--pool",
                                          {},
                                          "at least one sample with label tokens",
                                          counted(usable.pool_quarantine),
                                          remedy_for(usable.pool_quarantine)});
    for (std::int64_t row = 0; row < usable.pool_rows; ++row)
        if (usable.is_eligible(row)) measure(usable, pool.index, row);
    return usable;
}

UsableRows usable_rows(const CorpusShape& pool, const CorpusShape& targets, const std::vector<TaskFile>& tasks) {
    check_files(targets, "targets");
    UsableRows of_targets;
    keep_targets(of_targets, targets, tasks);  // first: a target without answers is said before a pool without any
    auto usable = usable_pool(pool);
    usable.tasks = of_targets.tasks;
    usable.task_names = std::move(of_targets.task_names);
    usable.target_rows = std::move(of_targets.target_rows);
    usable.target_task = std::move(of_targets.target_task);
    usable.target_quarantine = std::move(of_targets.target_quarantine);
    usable.longest = std::max(usable.longest, of_targets.longest);
    usable.most_labels = std::max(usable.most_labels, of_targets.most_labels);
    return usable;
}

std::vector<std::int64_t> eligible_in(const UsableRows& usable, const data::RowRange& range) {
    std::vector<std::int64_t> rows;
    for (auto row = range.first; row < range.end(); ++row)
        if (usable.is_eligible(row)) rows.push_back(row);
    return rows;
}

}  // namespace idistill::plan
