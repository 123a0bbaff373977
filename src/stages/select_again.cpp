// `idistill_mpi select`: stages 6 and 7 from the influences of an existing result. Every rank reads and checks all of
// its sizes and indices, then influences only of its own rows.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "choose.hpp"
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

/// What second order needs of the columns, which must be target samples.
ColumnFacts read_column_facts(const io::ResultReader& result, std::int64_t columns) {
    const auto settings = nlohmann::json::parse(result.attribute("settings"), nullptr, false);
    const auto setting = [&](const char* name) {
        const bool there = settings.is_object() && settings.contains(name) && settings[name].is_string();
        return there ? settings[name].get<std::string>() : std::string("nothing");
    };
    if (setting("columns") != "samples")
        result.refuse("attribute settings", "columns = samples, for --influence second-order",
                      "columns = " + setting("columns"));
    ColumnFacts facts;
    facts.cosine = setting("normalize") == "cosine";
    facts.label_tokens = read_bounded<std::int32_t>(result, "/column/label_tokens", columns, std::int64_t{1} << 31,
                                                    "numbers of label tokens");
    result.require<float>("/column/gradient_norm", {columns});
    facts.gradient_norm = result.read<float>("/column/gradient_norm");
    for (const float norm : facts.gradient_norm)
        if (!(norm > 0.0F) || !std::isfinite(norm))
            result.refuse("/column/gradient_norm", "finite norms above 0", fmt::format("{}", norm));
    return facts;
}

}  // namespace

void select_again(const config::Settings& settings, comm::Communicator& comm, const std::string& program) {
    const io::RunLock lock(comm, settings.out + ".lock");
    check_output_is_free(settings, comm);
    const io::ResultReader result(settings.result);
    const auto pool = read_pool(result);
    auto request = selection_request(settings, pool.source_names, pool.rows);
    request.column_task = pool.column_task;
    request.tasks = pool.tasks;
    request.eligible = pool.eligible;
    request.tokens = pool.tokens;
    request.source = pool.source;
    check_weight_limits(settings, request, pool.source_names);
    const auto selection = choose(settings, comm, request,
                                  {pool.columns,
                                   [&](std::int64_t first, std::int64_t count, std::span<float> out) {
                                       result.read_rows<float>("/influence", {first, count}, out);
                                   }},
                                  pool.source_names, [&] { return read_column_facts(result, pool.columns); });
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
