// `idistill_mpi select`: the last stages from the influences of an existing result. Every rank reads and checks all of
// its sizes and indices, then influences only of its own rows.

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/comm/say.hpp"
#include "idistill/influence/members.hpp"
#include "idistill/influence/settings.hpp"
#include "idistill/selection/members.hpp"
#include "idistill/selection/settings.hpp"
#include "run.hpp"

namespace idistill::stages {
namespace {

/// What a selection needs of a result beside the influences: nothing in the file is trusted.
struct StoredPool {
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    std::vector<std::uint8_t> eligible;  ///< (rows)
    std::vector<std::int32_t> tokens;    ///< (rows)
    std::vector<std::int32_t> source;    ///< (rows)
    std::vector<std::string> source_names;
    std::vector<std::int32_t> column_task;  ///< (columns)
    std::int32_t tasks = 0;
};

StoredPool read_pool(const io::ResultReader& result) {
    StoredPool pool;
    pool.rows = result.row_count("/influence");
    pool.columns = result.width("/influence");
    result.require<float>("/influence", {pool.rows, pool.columns});
    if (pool.rows == 0 || pool.columns == 0)
        result.refuse("/influence", "rows and columns", fmt::format("{} x {}", pool.rows, pool.columns));
    result.require<std::string>("/id", {pool.rows});
    pool.tokens = result.read_bounded<std::int32_t>("/tokens", pool.rows, std::int64_t{1} << 31, "lengths");
    pool.source_names = result.read_strings("/source/name");
    pool.source = result.read_bounded<std::int32_t>("/source/index", pool.rows, std::ssize(pool.source_names),
                                                    "places in /source/name");
    pool.tasks = static_cast<std::int32_t>(result.row_count("/task/name"));
    result.require<std::string>("/task/name", {pool.tasks});
    pool.column_task =
        result.read_bounded<std::int32_t>("/column/task", pool.columns, pool.tasks, "places in /task/name");
    for (std::int32_t task = 0; task < pool.tasks; ++task)
        if (std::find(pool.column_task.begin(), pool.column_task.end(), task) == pool.column_task.end())
            result.refuse("/column/task", "a column of every task", fmt::format("none of task {}", task));
    pool.eligible.assign(static_cast<std::size_t>(pool.rows), 1);
    for (const auto row : result.read_bounded<std::int64_t>("/quarantine/index", result.row_count("/quarantine/index"),
                                                            pool.rows, "rows"))
        pool.eligible[static_cast<std::size_t>(row)] = 0;
    return pool;
}

/// True for what was another option when the result was made.
bool is_old_spelling(const options::Table& table, const std::string& name, const std::string& text) {
    return std::any_of(table.options.begin(), table.options.end(), [&](const options::Option& option) {
        return std::any_of(option.old_spellings.begin(), option.old_spellings.end(), [&](const auto& old) {
            return old.name == name && std::find(old.words.begin(), old.words.end(), text) != old.words.end();
        });
    });
}

/// The values with what the result decides: its columns, and the influence that it was made with.
options::Values resolved_for(const Command& command, const io::ResultReader& result) {
    auto values = command.values;
    const auto take = [&](const options::Option& option) {
        const auto text = result.setting(option.name);
        if (text.empty() || is_old_spelling(command.table, option.name, text)) return;
        try {
            option.apply(values, {result.path(), option.name, {text}});
        } catch (const Error& error) {
            result.refuse("attribute settings", option.name + " = " + error.failure().expected, error.failure().found);
        }
    };
    const auto option_of_run = [&](const char* name) { return *command.table.find(name, options::Command::run); };
    values.of<options::InputSettings>().columns = options::ColumnKind::tasks;  // where it says nothing
    take(option_of_run("columns"));
    take(option_of_run("influence"));
    for (const auto& member : influence::members())
        if (member.name == values.of<influence::InfluenceSettings>().member && member.options != nullptr)
            for (const auto& option : member.options()) take(option);
    return command.table.resolve(std::move(values));
}

/// Says what `auto` came to.
void say_resolved(const Command& command, comm::Communicator& comm, const options::Values& values) {
    for (const auto& option : command.table.options) {
        if (!option.of_select) continue;
        const auto given = options::shown(option.show(command.values)), meant = options::shown(option.show(values));
        if (given != meant && options::idle(command.table, values, option.name).cause.empty())
            say(comm, fmt::format("--{} {}: {}", option.name, given, meant));
    }
}

/// The first `width` numbers of rows: of /influence, then of the extras behind it.
void read_stored(const io::ResultReader& result, std::int64_t columns, const std::string& extras, data::RowRange rows,
                 std::int64_t width, std::span<float> out) {
    if (width == columns) return result.read_rows<float>("/influence", rows, out);
    const auto behind = width - columns;
    std::vector<float> influence(static_cast<std::size_t>(rows.count * columns));
    std::vector<float> extra(static_cast<std::size_t>(rows.count * behind));
    result.read_rows<float>("/influence", rows, influence);
    result.read_rows<float>(extras, rows, extra);
    for (std::int64_t row = 0; row < rows.count; ++row) {
        const auto place = out.begin() + row * width;
        std::copy_n(influence.begin() + row * columns, columns, place);
        std::copy_n(extra.begin() + row * behind, behind, place + columns);
    }
}

/// `extras`: terms by extra columns, where the selection wants them.
RatedPool rate_stored(const StoredPool& pool, const io::ResultReader& result, const influence::Influence& influence,
                      const std::optional<influence::CurvatureTerms>& extras) {
    return {
        .facts = {.eligible = pool.eligible,
                  .tokens = pool.tokens,
                  .source = pool.source,
                  .source_names = pool.source_names,
                  .column_task = pool.column_task,
                  .tasks = pool.tasks},
        .influence = {
            .columns = pool.columns,
            .products = pool.columns + (extras ? std::ssize(extras->weight) : 0),
            .read =
                [&](std::int64_t first, std::int64_t count, std::int64_t width, std::span<float> out) {
                    read_stored(result, pool.columns, extras ? extras->dataset : "", {first, count}, width, out);
                },
            .curvature =
                [&](bool of_extras) { return of_extras ? extras.value() : influence.stored_curvature(result, false); }},
        .read_ids = [&result](data::RowRange rows) { return result.read_strings("/id", rows); }};
}

plan::Plan plan_of(const Command& command, const selection::Selector& selector, const RatedPool& pool) {
    plan::Plan plan;
    const auto rows = pool.facts.rows();
    // tokens, sources, eligible
    plan.needs.push_back({.what = "index of the pool", .per_rank = static_cast<double>(rows) * 9.0});
    selector.plan(plan, {rows, pool.influence.columns, pool.influence.products - pool.influence.columns});
    plan.result.push_back({"copy", 1, static_cast<double>(std::filesystem::file_size(command.inputs().result))});
    return plan;
}

}  // namespace

void select_again(const Command& command, comm::Communicator& comm) {
    const work::RunLock lock(comm, command.inputs().out);
    check_output_is_free(command, comm);
    const io::ResultReader result(command.inputs().result);
    const auto stored = read_pool(result);
    auto values = resolved_for(command, result);
    say_resolved(command, comm, values);
    selection::look_at_files(values);
    const auto influence = influence::make_influence(values);
    const auto selector = selection::make_selector(values);
    std::optional<influence::CurvatureTerms> extras;
    if (selector->wants_extras()) extras = influence->stored_curvature(result, true);
    const auto pool = rate_stored(stored, result, *influence, extras);
    selector->check(pool.facts);
    selector->open(comm, pool.facts, pool.read_ids);
    check_resources(command, comm, plan_of(command, *selector, pool));
    const auto selection = select(comm, *selector, pool);
    say(comm,
        fmt::format("selected {} of {} samples, {} tokens", selection.picks.size(), stored.rows, selection.tokens));
    io::ResultWriter writer(comm, command.inputs().out, command.inputs().result);
    write_selection(comm, writer, selection, pool);
    writer.attribute("selection_settings", options::to_json(command.table, values));
    writer.attribute("selection_program", command.program);
    writer.commit();
}

}  // namespace idistill::stages
