// `idistill_mpi select`: stages 6 and 7 from the influences of an existing result. Every rank reads and checks all of
// its sizes and indices, then influences only of its own rows.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "choose.hpp"
#include "idistill/report/error.hpp"
#include "result_rows.hpp"

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

/// A vector whose entries are all within [0, bound).
template <class T>
std::vector<T> read_bounded(const io::ResultReader& result, const std::string& dataset, std::int64_t count,
                            std::int64_t bound, const std::string& meaning) {
    result.require<T>(dataset, {count});
    auto values = result.read<T>(dataset);
    const auto wrong = std::find_if(values.begin(), values.end(), [&](T x) { return x < 0 || x >= bound; });
    if (wrong != values.end())
        result.refuse(dataset, fmt::format("{} below {}", meaning, bound),
                      fmt::format("{} at place {}", *wrong, wrong - values.begin()));
    return values;
}

StoredPool read_pool(const io::ResultReader& result) {
    StoredPool pool;
    pool.rows = result.row_count("/influence");
    pool.columns = result.width("/influence");
    result.require<float>("/influence", {pool.rows, pool.columns});
    if (pool.rows == 0 || pool.columns == 0)
        result.refuse("/influence", "rows and columns", fmt::format("{} x {}", pool.rows, pool.columns));
    result.require<std::string>("/id", {pool.rows});
    pool.tokens = read_bounded<std::int32_t>(result, "/tokens", pool.rows, std::int64_t{1} << 31, "lengths");
    pool.source_names = result.read_strings("/source/name");
    pool.source = read_bounded<std::int32_t>(result, "/source/index", pool.rows, std::ssize(pool.source_names),
                                             "places in /source/name");
    pool.tasks = static_cast<std::int32_t>(result.row_count("/task/name"));
    result.require<std::string>("/task/name", {pool.tasks});
    pool.column_task =
        read_bounded<std::int32_t>(result, "/column/task", pool.columns, pool.tasks, "places in /task/name");
    for (std::int32_t task = 0; task < pool.tasks; ++task)
        if (std::find(pool.column_task.begin(), pool.column_task.end(), task) == pool.column_task.end())
            result.refuse("/column/task", "a column of every task", fmt::format("none of task {}", task));
    pool.eligible.assign(static_cast<std::size_t>(pool.rows), 1);
    for (const auto row : read_bounded<std::int64_t>(result, "/quarantine/index", result.row_count("/quarantine/index"),
                                                     pool.rows, "rows"))
        pool.eligible[static_cast<std::size_t>(row)] = 0;
    return pool;
}

/// A setting of the run that is text; empty without.
std::string setting_of(const io::ResultReader& result, const char* name) {
    const auto settings = nlohmann::json::parse(result.attribute("settings"), nullptr, false);
    const bool there = settings.is_object() && settings.contains(name) && settings[name].is_string();
    return there ? settings[name].get<std::string>() : std::string();
}

template <class T>
std::vector<T> read_finite(const io::ResultReader& result, const std::string& dataset, std::int64_t count) {
    result.require<T>(dataset, {count});
    auto values = result.read<T>(dataset);
    for (const T value : values)
        if (!std::isfinite(value)) result.refuse(dataset, "finite numbers", fmt::format("{}", value));
    return values;
}

/// What second order needs of the columns, which must be target samples.
ColumnFacts read_column_facts(const config::Settings& settings, const io::ResultReader& result, std::int64_t columns) {
    if (settings.columns != "samples")
        throw Error(ExitCode::bad_input,
                    {settings.result, "attribute settings", "columns = samples, for --influence second-order",
                     "columns = " + (settings.columns.empty() ? "nothing" : settings.columns),
                     "Use --influence first-order, without --learning-rate, or a result of --columns samples."});
    ColumnFacts facts;
    facts.cosine = setting_of(result, "normalize") == "cosine";
    facts.label_tokens = read_bounded<std::int32_t>(result, "/column/label_tokens", columns, std::int64_t{1} << 31,
                                                    "numbers of label tokens");
    result.require<float>("/column/gradient_norm", {columns});
    facts.gradient_norm = result.read<float>("/column/gradient_norm");
    for (const float norm : facts.gradient_norm)
        if (!(norm > 0.0F) || !std::isfinite(norm))
            result.refuse("/column/gradient_norm", "finite norms above 0", fmt::format("{}", norm));
    if (!setting_of(result, "optimizer").empty())
        facts.step_product = read_finite<float>(result, "/column/step_product", columns);
    return facts;
}

/// What belongs to the Hessian's factor, which must be there as well.
HessianFacts read_hessian_facts(const std::string& path, const io::ResultReader& result, std::int64_t rows) {
    if (const auto kind = setting_of(result, "curvature"); kind != "hessian")
        throw Error(ExitCode::bad_input, {path, "attribute settings", "curvature = hessian, for a selection by it",
                                          "curvature = " + (kind.empty() ? "nothing" : kind),
                                          "Use --curvature fisher, or run again with --curvature hessian."});
    const auto rank = result.row_count("/curvature/value");
    result.require<float>("/curvature/factor", {rows, rank});
    HessianFacts facts{read_finite<double>(result, "/curvature/value", rank), {}};
    if (!setting_of(result, "optimizer").empty())
        facts.step_product = read_finite<double>(result, "/curvature/step_product", rank);
    return facts;
}

/// Rows of /influence, each with its row of /curvature/factor behind it.
void read_with_factor(const io::ResultReader& result, std::int64_t columns, data::RowRange rows, std::span<float> out) {
    const auto count = static_cast<std::size_t>(rows.count);
    const auto width = static_cast<std::size_t>(columns);
    const auto rank = out.size() / std::max<std::size_t>(1, count) - width;
    std::vector<float> influence(count * width), factor(count * rank);
    result.read_rows<float>("/influence", rows, influence);
    result.read_rows<float>("/curvature/factor", rows, factor);
    for (std::size_t i = 0; i < count; ++i) {
        const auto row = out.subspan(i * (width + rank), width + rank);
        std::copy_n(influence.begin() + static_cast<std::ptrdiff_t>(i * width), width, row.begin());
        std::copy_n(factor.begin() + static_cast<std::ptrdiff_t>(i * rank), rank,
                    row.begin() + static_cast<std::ptrdiff_t>(width));
    }
}

}  // namespace

void select_again(const config::Settings& given, comm::Communicator& comm, const std::string& program) {
    const io::RunLock lock(comm, given.out);
    check_output_is_free(given, comm);
    const io::ResultReader result(given.result);
    const auto pool = read_pool(result);
    auto settings = given;
    settings.columns = setting_of(result, "columns");
    settings = config::resolved(std::move(settings));
    if (given.selection == "auto") say(comm, "--selection auto: " + settings.selection);
    if (settings.selection == "weighted" && given.influence == "auto")
        say(comm, "--influence auto: " + settings.influence);
    auto request = selection_request(settings, pool.source_names, pool.rows);
    request.column_task = pool.column_task;
    request.tasks = pool.tasks;
    request.eligible = pool.eligible;
    request.tokens = pool.tokens;
    request.source = pool.source;
    check_weight_limits(settings, request, pool.source_names);
    const auto hessian =
        config::uses_hessian(settings) ? read_hessian_facts(settings.result, result, pool.rows) : HessianFacts();
    check_selection_resources(settings, comm,
                              {.rows = pool.rows,
                               .columns = pool.columns,
                               .curvature_columns = std::ssize(hessian.value),
                               .with_optimizer = !setting_of(result, "optimizer").empty()});
    const auto selection =
        choose(settings, comm, request,
               {pool.columns,
                [&](std::int64_t first, std::int64_t count, std::span<float> out) {
                    result.read_rows<float>("/influence", {first, count}, out);
                },
                [&] { return read_column_facts(settings, result, pool.columns); }, [&] { return hessian; },
                [&](std::int64_t first, std::int64_t count, std::span<float> out) {
                    read_with_factor(result, pool.columns, {first, count}, out);
                }},
               pool.source_names);
    if (selection.report) say(comm, weights_text(settings, selection, pool.rows, pool.source_names));
    say(comm, fmt::format("selected {} of {} samples, {} tokens", selection.picks.size(), pool.rows, selection.tokens));
    io::ResultWriter writer(comm, settings.out, settings.result);
    write_selection(comm, writer, selection, pool.rows,
                    [&](data::RowRange rows) { return result.read_strings("/id", rows); });
    writer.attribute("selection_settings", config::to_json(settings));
    writer.attribute("selection_program", program);
    writer.commit();
}

}  // namespace idistill::stages
