#include "idistill/work/state_file.hpp"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <utility>

#include "checksum.hpp"
#include "idistill/data/parallel_file.hpp"

namespace idistill::work {

using data::await_closing;
using data::ParallelFile;
using data::rename_durably;
using data::require_creatable;
using nlohmann::json;

namespace {

constexpr std::int64_t verified_elements = std::int64_t{4} << 20U;  // read at once: 16 MiB

std::string path_of(const plan::Stage& stage, const std::string& dataset) { return "/" + stage.name + "/" + dataset; }

std::string unit_borders(const std::vector<data::WorkUnit>& units) {
    std::uint64_t hash = units.size();
    for (const auto& unit : units) hash = std::rotl(hash, 7) ^ Checksum(unit.rows.first, unit.rows.count).value();
    return std::to_string(hash);
}

/// What a state file belongs to, as one flat JSON object: the run's identity and the sizes and units of its stages.
std::string state_identity(const std::string& identity, const std::vector<plan::Stage>& stages) {
    json whole = json::parse(identity).flatten();
    for (const auto& stage : stages) {
        const auto units = stage.stored_units();
        const std::string prefix = "/stage/" + stage.name + "/";
        whole[prefix + "rows"] = stage.stored_rows();
        whole[prefix + "units"] = units.size();
        whole[prefix + "unit borders"] = unit_borders(units);
        for (const auto& column : stage.columns) whole[prefix + column.name + " width"] = column.width;
    }
    return whole.dump();
}

json stored_identity(const std::string& path, const std::string& remedy) {
    const h5::File file = h5::open_read_only(path, ExitCode::state_mismatch, remedy);
    const h5::Dataset dataset = h5::open_strings(file, "/identity");
    if (dataset.rows() != 1) h5::mismatch(file, "/identity", "one text", std::to_string(dataset.rows()));
    json stored = json::parse(h5::read_strings(file, dataset, 0, 1).front(), nullptr, false);
    if (!stored.is_object()) h5::mismatch(file, "/identity", "a JSON object", "something else");
    return stored;
}

/// Throws Error(state_mismatch) naming every key that differs, with the stored and the wanted value. One rank.
void require_same_identity(const std::string& path, const std::string& wanted) {
    const std::string remedy = "Remove " + path + " to start over, or repeat the earlier settings.";
    const json now = json::parse(wanted);
    const json stored = stored_identity(path, remedy);
    std::set<std::string> keys;  // that differ
    for (const auto& [some, other] : {std::pair(&now, &stored), std::pair(&stored, &now)})
        for (const auto& item : some->items())
            if (!other->contains(item.key()) || other->at(item.key()) != item.value()) keys.insert(item.key());
    if (keys.empty()) return;
    // How the work is cut follows from settings and inputs: named only where none of these differs.
    const auto is_cut = [](const std::string& key) { return key.starts_with("/stage/"); };
    if (!std::all_of(keys.begin(), keys.end(), is_cut)) std::erase_if(keys, is_cut);
    /// "key=value, ..." of the keys that differ.
    const auto shown = [&keys](const json& object) {
        std::string text;
        for (const auto& key : keys)
            text += (text.empty() ? "" : ", ") + key.substr(1) + "=" +
                    (object.contains(key) ? object.at(key).dump() : "(absent)");
        return text;
    };
    std::string differing;
    for (const auto& key : keys) differing += (differing.empty() ? "" : ", ") + key.substr(1);
    throw Error(ExitCode::state_mismatch, {path, differing, shown(stored) + " as begun", shown(now), remedy});
}

/// Creates the whole file under another name, so that `path` is either complete or absent. Collective.
void create_state(comm::Communicator& communicator, const std::string& path, const std::string& identity,
                  const std::vector<plan::Stage>& stages) {
    const std::string unfinished = path + ".new";
    if (communicator.is_root()) require_creatable(unfinished);
    communicator.barrier();
    ParallelFile parallel =
        ParallelFile::create(communicator, unfinished, ExitCode::too_large, "Free disk space or choose another --out.");
    const h5::File& file = parallel.file;
    parallel.together("creation of the datasets", [&] {
        const auto bytes = static_cast<std::int64_t>(identity.size());
        const h5::Dataset text = h5::create_strings(file, "/identity", 1, bytes);
        if (communicator.is_root()) h5::write_strings(file, text, 0, std::vector{identity});
        for (const plan::Stage& stage : stages) {
            for (const plan::Column& column : stage.columns)
                h5::create_dataset(file, path_of(stage, column.name), h5::Type::f32,
                                   {stage.stored_rows(), column.width});
            const auto units = std::ssize(stage.stored_units());
            h5::create_dataset(file, path_of(stage, "checksum"), h5::Type::u64, {units});
            const h5::Dataset done = h5::create_dataset(file, path_of(stage, "done"), h5::Type::u8, {units});
            const std::vector<std::uint8_t> none(static_cast<std::size_t>(units),
                                                 0);  // nothing else fills the file with zeros
            if (communicator.is_root()) h5::write_rows<std::uint8_t>(file, done, 0, units, none);
        }
    });
    parallel.close();
    if (communicator.is_root()) rename_durably(unfinished, path);
    communicator.barrier();
}

/// Rank 0 looks and, where the file belongs to something else, throws alone; all ranks learn whether it is there.
void create_unless_there(comm::Communicator& communicator, const std::string& path, const std::string& identity,
                         const std::vector<plan::Stage>& stages) {
    await_closing(communicator);
    std::uint8_t there = 0;
    if (communicator.is_root() && std::filesystem::exists(path)) {
        require_same_identity(path, identity);
        there = 1;
    }
    communicator.broadcast(std::span(&there, 1));
    if (there == 0) create_state(communicator, path, identity, stages);
}

ParallelFile open_state(comm::Communicator& communicator, const std::string& path, const std::string& identity,
                        const std::vector<plan::Stage>& stages) {
    create_unless_there(communicator, path, identity, stages);
    return ParallelFile::open(
        communicator, path, ExitCode::too_large,
        "Free disk space or repair the file system, then repeat the command: it continues. Or remove " + path +
            " to start over.");
}

/// The one of this name. Throws Error(internal_error) for none.
template <class Named, class Name>
std::size_t place_of(const std::vector<Named>& all, std::string_view name, const char* what, Name name_of) {
    const auto found = std::find_if(all.begin(), all.end(), [&](const Named& one) { return name_of(one) == name; });
    if (found != all.end()) return static_cast<std::size_t>(found - all.begin());
    throw Error(ExitCode::internal_error,
                {"state", what, "one of the plan", std::string(name), "This is a defect of idistill."});
}

struct OpenStage {
    plan::Stage planned;
    std::vector<data::WorkUnit> units;  ///< as stored
    std::vector<h5::Dataset> columns;
    h5::Dataset checksum;
    h5::Dataset done;
    std::vector<std::uint8_t> recovered;
};

}  // namespace

struct StateFile::Impl {
    comm::Communicator& communicator;
    ParallelFile parallel;
    std::vector<OpenStage> stages;

    Impl(comm::Communicator& ranks, const std::string& path, const std::string& identity,
         std::vector<plan::Stage> planned)
        : communicator(ranks), parallel(open_state(ranks, path, state_identity(identity, planned), planned)) {
        for (auto& stage : planned) {
            stages.push_back(open_stage(std::move(stage)));
            recover(stages.back());
        }
    }

    OpenStage open_stage(plan::Stage planned) const {
        const h5::File& file = parallel.file;
        OpenStage stage{
            .planned = std::move(planned), .units = {}, .columns = {}, .checksum = {}, .done = {}, .recovered = {}};
        stage.units = stage.planned.stored_units();
        for (const plan::Column& column : stage.planned.columns)
            stage.columns.push_back(h5::open_dataset(file, path_of(stage.planned, column.name), h5::Type::f32, 2));
        stage.checksum = h5::open_dataset(file, path_of(stage.planned, "checksum"), h5::Type::u64, 1);
        stage.done = h5::open_dataset(file, path_of(stage.planned, "done"), h5::Type::u8, 1);
        return stage;
    }

    [[nodiscard]] const OpenStage& stage(std::string_view name) const {
        return stages[place_of(stages, name, "stage", [](const OpenStage& s) { return s.planned.name; })];
    }

    /// Every finished unit is read and checked by one rank, then all ranks know. Collective.
    void recover(OpenStage& stage) {
        const std::size_t units = stage.units.size();
        std::vector<std::uint8_t> done(units);
        std::vector<std::uint64_t> checksums(units);
        h5::read_rows<std::uint8_t>(parallel.file, stage.done, 0, static_cast<std::int64_t>(units), done);
        h5::read_rows<std::uint64_t>(parallel.file, stage.checksum, 0, static_cast<std::int64_t>(units), checksums);
        stage.recovered.assign(units, 0);
        for (auto unit = static_cast<std::size_t>(communicator.rank()); unit < units;
             unit += static_cast<std::size_t>(communicator.size())) {
            if (done[unit] != 1) continue;
            stage.recovered[unit] = checksum_on_disk(stage, stage.units[unit].rows) == checksums[unit] ? 1 : 0;
        }
        communicator.all_reduce<std::uint8_t>(stage.recovered, comm::Reduction::max);
    }

    std::uint64_t checksum_on_disk(const OpenStage& stage, data::RowRange rows) const {
        Checksum checksum(rows.first, rows.count);
        std::vector<float> values;
        for (const h5::Dataset& column : stage.columns) {
            const std::int64_t width = column.row_elements();
            const std::int64_t step = std::max<std::int64_t>(1, verified_elements / std::max<std::int64_t>(1, width));
            for (std::int64_t row = rows.first; row < rows.end(); row += step) {
                const std::int64_t count = std::min(step, rows.end() - row);
                values.resize(static_cast<std::size_t>(count * width));
                h5::read_rows<float>(parallel.file, column, row, count, values);
                checksum.update(values);
            }
        }
        return checksum.value();
    }
};

StateFile::StateFile(comm::Communicator& communicator, const std::string& path, const std::string& identity,
                     const std::vector<plan::Stage>& stages) {
    auto kept = stages;
    std::erase_if(kept, [](const plan::Stage& stage) { return stage.columns.empty(); });
    impl_ = std::make_unique<Impl>(communicator, path, identity, std::move(kept));
}
StateFile::~StateFile() = default;

std::span<const std::uint8_t> StateFile::recovered(std::string_view stage) const {
    return impl_->stage(stage).recovered;
}

std::int64_t StateFile::units_recovered() const {
    std::int64_t units = 0;
    for (const OpenStage& stage : impl_->stages)
        units = std::accumulate(stage.recovered.begin(), stage.recovered.end(), units);
    return units;
}

// The order is the promise: a rank killed between any two calls leaves a unit that is not marked, or one whose rows
// fit.
void StateFile::write_unit(std::string_view stage, std::int64_t unit, std::span<const std::span<const float>> columns) {
    const OpenStage& open = impl_->stage(stage);
    const data::RowRange rows = open.units.at(static_cast<std::size_t>(unit)).rows;
    const h5::File& file = impl_->parallel.file;
    Checksum checksum(rows.first, rows.count);
    for (std::size_t column = 0; column < open.columns.size(); ++column) {
        h5::write_rows<float>(file, open.columns[column], rows.first, rows.count, columns[column]);
        checksum.update(columns[column]);
    }
    const std::uint64_t value = checksum.value();
    h5::write_rows<std::uint64_t>(file, open.checksum, unit, 1, std::span(&value, 1));
    const std::uint8_t done = 1;
    h5::write_rows<std::uint8_t>(file, open.done, unit, 1, std::span(&done, 1));
}

void StateFile::read(std::string_view stage, std::string_view column, data::RowRange rows, std::span<float> out) const {
    const OpenStage& open = impl_->stage(stage);
    const auto place = place_of(open.planned.columns, column, "column", [](const plan::Column& c) { return c.name; });
    h5::read_rows<float>(impl_->parallel.file, open.columns[place], rows.first, rows.count, out);
}

void StateFile::sync() { impl_->parallel.flush(); }

void StateFile::remove() {
    const std::string path = impl_->parallel.file.path;
    comm::Communicator& communicator = impl_->communicator;
    impl_->stages.clear();
    impl_->parallel.close();
    impl_.reset();
    if (communicator.is_root()) std::filesystem::remove(path);
    communicator.barrier();
}

}  // namespace idistill::work
