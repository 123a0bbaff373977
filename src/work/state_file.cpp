#include "idistill/work/state_file.hpp"

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <utility>

#include "checksum.hpp"
#include "idistill/data/parallel_file.hpp"
#include "state_identity.hpp"

namespace idistill::work {

using data::await_closing;
using data::ParallelFile;
using data::rename_durably;
using data::require_creatable;
namespace {

constexpr std::int64_t verified_elements = std::int64_t{4} << 20U;  // read at once: 16 MiB

std::string path_of(const StateStage& stage, const std::string& dataset) { return "/" + stage.name + "/" + dataset; }

/// Creates the whole file under another name, so that `path` is either complete or absent. Collective.
void create_state(comm::Communicator& communicator, const std::string& path, const std::string& identity,
                  const std::vector<StateStage>& stages) {
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
        for (const StateStage& stage : stages) {
            for (const plan::Column& column : stage.columns) {
                h5::create_dataset(file, path_of(stage, column.name), h5::Type::f32, {stage.rows, column.width});
            }
            const auto units = static_cast<std::int64_t>(stage.units.size());
            h5::create_dataset(file, path_of(stage, "checksum"), h5::Type::u64, {units});
            const h5::Dataset done = h5::create_dataset(file, path_of(stage, "done"), h5::Type::u8, {units});
            const std::vector<std::uint8_t> none(stage.units.size(), 0);  // nothing else fills the file with zeros
            if (communicator.is_root()) h5::write_rows<std::uint8_t>(file, done, 0, units, none);
        }
    });
    parallel.close();
    if (communicator.is_root()) rename_durably(unfinished, path);
    communicator.barrier();
}

/// Rank 0 looks and, where the file belongs to something else, throws alone; all ranks learn whether it is there.
void create_unless_there(comm::Communicator& communicator, const std::string& path, const std::string& identity,
                         const std::vector<StateStage>& stages) {
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
                        const std::vector<StateStage>& stages) {
    create_unless_there(communicator, path, identity, stages);
    return ParallelFile::open(
        communicator, path, ExitCode::too_large,
        "Free disk space or repair the file system, then repeat the command: it continues. Or remove " + path +
            " to start over.");
}

[[noreturn]] void no_such(const std::string& what, std::string_view name) {
    throw Error(ExitCode::internal_error,
                {"state", what, "one of the plan", std::string(name), "This is a defect of idistill."});
}

struct OpenStage {
    StateStage layout;
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
         std::vector<StateStage> layouts)
        : communicator(ranks), parallel(open_state(ranks, path, identity, layouts)) {
        for (StateStage& layout : layouts) {
            stages.push_back(open_stage(std::move(layout)));
            recover(stages.back());
        }
    }

    OpenStage open_stage(StateStage layout) const {
        const h5::File& file = parallel.file;
        OpenStage stage{.layout = std::move(layout), .columns = {}, .checksum = {}, .done = {}, .recovered = {}};
        for (const plan::Column& column : stage.layout.columns) {
            stage.columns.push_back(h5::open_dataset(file, path_of(stage.layout, column.name), h5::Type::f32, 2));
        }
        stage.checksum = h5::open_dataset(file, path_of(stage.layout, "checksum"), h5::Type::u64, 1);
        stage.done = h5::open_dataset(file, path_of(stage.layout, "done"), h5::Type::u8, 1);
        return stage;
    }

    /// Every finished unit is read and checked by one rank, then all ranks know. Collective.
    void recover(OpenStage& stage) {
        const std::size_t units = stage.layout.units.size();
        std::vector<std::uint8_t> done(units);
        std::vector<std::uint64_t> checksums(units);
        h5::read_rows<std::uint8_t>(parallel.file, stage.done, 0, static_cast<std::int64_t>(units), done);
        h5::read_rows<std::uint64_t>(parallel.file, stage.checksum, 0, static_cast<std::int64_t>(units), checksums);
        stage.recovered.assign(units, 0);
        for (auto unit = static_cast<std::size_t>(communicator.rank()); unit < units;
             unit += static_cast<std::size_t>(communicator.size())) {
            if (done[unit] != 1) continue;
            stage.recovered[unit] = checksum_on_disk(stage, stage.layout.units[unit].rows) == checksums[unit] ? 1 : 0;
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
                     std::vector<StateStage> stages) {
    const std::string whole = state_identity(identity, stages);
    impl_ = std::make_unique<Impl>(communicator, path, whole, std::move(stages));
}
StateFile::~StateFile() = default;

std::size_t StateFile::stage(std::string_view name) const {
    const auto& stages = impl_->stages;
    const auto found = std::find_if(stages.begin(), stages.end(), [&](const auto& s) { return s.layout.name == name; });
    if (found == stages.end()) no_such("stage", name);
    return static_cast<std::size_t>(found - stages.begin());
}

std::size_t StateFile::column(std::size_t stage, std::string_view name) const {
    const auto& columns = impl_->stages.at(stage).layout.columns;
    const auto found = std::find_if(columns.begin(), columns.end(), [&](const auto& c) { return c.name == name; });
    if (found == columns.end()) no_such("column", name);
    return static_cast<std::size_t>(found - columns.begin());
}

std::span<const std::uint8_t> StateFile::recovered(std::size_t stage) const {
    return impl_->stages.at(stage).recovered;
}

std::int64_t StateFile::units_recovered() const {
    std::int64_t units = 0;
    for (const OpenStage& stage : impl_->stages) {
        units = std::accumulate(stage.recovered.begin(), stage.recovered.end(), units);
    }
    return units;
}

// The order is the promise: a rank killed between any two calls leaves a unit that is not marked, or one whose rows
// fit.
void StateFile::write_unit(std::size_t stage, std::int64_t unit, std::span<const std::span<const float>> columns) {
    OpenStage& open = impl_->stages.at(stage);
    const data::RowRange rows = open.layout.units.at(static_cast<std::size_t>(unit)).rows;
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

void StateFile::read(std::size_t stage, std::size_t column, data::RowRange rows, std::span<float> out) const {
    h5::read_rows<float>(impl_->parallel.file, impl_->stages.at(stage).columns.at(column), rows.first, rows.count, out);
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
